package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// PeerCredentials authenticates callers on a unix socket by the kernel's word
// (SO_PEERCRED, unix(7)): who they were when they connected.
func PeerCredentials() credentials.TransportCredentials { return peerCredentials{} }

type peerCredentials struct{}

// localPeer is the AuthInfo of a unix socket's caller.
type localPeer struct {
	credentials.CommonAuthInfo
	principal workload.Principal
}

// AuthType names the mechanism.
func (localPeer) AuthType() string { return "peercred" }

// ClientHandshake trusts the socket's owner: the path is the server's identity.
func (peerCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, localPeer{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

// ServerHandshake asks the kernel who connected.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("peer credentials need a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", err)
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", credErr)
	}
	return c, localPeer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		principal:      workload.Principal{Local: true, UID: cred.Uid, PID: cred.Pid},
	}, nil
}

// Info describes the protocol.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone gives the same: there is no state.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName does nothing: a unix socket has no server name.
func (peerCredentials) OverrideServerName(string) error { return nil }

// Principal gives the proven caller of the request that ctx belongs to.
func Principal(ctx context.Context) (workload.Principal, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return workload.Principal{}, fault.New(fault.Unauthenticated, "the caller is unknown")
	}
	switch info := p.AuthInfo.(type) {
	case localPeer:
		return info.principal, nil
	case credentials.TLSInfo:
		return certificatePrincipal(info.State)
	}
	return workload.Principal{}, fault.New(fault.Unauthenticated, "the caller did not prove who it is")
}

// certificatePrincipal takes the one SPIFFE URI of the verified leaf (X509-SVID
// spec, section 2: exactly one URI name).
func certificatePrincipal(s tls.ConnectionState) (workload.Principal, error) {
	if len(s.VerifiedChains) == 0 {
		return workload.Principal{}, fault.New(fault.Unauthenticated, "the caller showed no certificate of this trust domain")
	}
	leaf := s.VerifiedChains[0][0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" {
		return workload.Principal{}, fault.New(fault.Unauthenticated, "the caller's certificate does not hold exactly one SPIFFE ID")
	}
	return workload.Principal{SPIFFEID: leaf.URIs[0].String()}, nil
}

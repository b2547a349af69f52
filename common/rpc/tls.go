package rpc

import (
	"crypto/tls"
	"crypto/x509"

	"google.golang.org/grpc/credentials"
)

// ServerTLS authenticates both sides: the server by the certificate that get
// gives at each handshake, so that it can be renewed; callers by a certificate
// under roots that holds their SPIFFE ID. It speaks TLS 1.3 alone and exchanges
// keys by X25519MLKEM768 alone (draft-ietf-tls-ecdhe-mlkem), so that what is
// recorded today stays closed to a quantum computer later.
func ServerTLS(get func() (*tls.Certificate, error), roots *x509.CertPool) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        roots,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return get() },
	})
}

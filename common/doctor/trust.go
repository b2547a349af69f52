package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

func trustChecks(ctx context.Context) []Check {
	return []Check{tpmCheck(ctx), confidentialCheck(), exchangeCheck(ctx), fipsCheck()}
}

// tpmCheck looks for a root of trust: the kernel's TPM, or the socket in TERO_TPM.
func tpmCheck(ctx context.Context) Check {
	c := check("trust", "TPM", "evidence that root of this node cannot rewrite (level L2; L1 with a virtual one)")
	if address := os.Getenv("TERO_TPM"); address != "" {
		path := strings.TrimPrefix(address, "unix:")
		if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeCharDevice != 0 { //nolint:gosec // the operator's own choice
			return deviceTPM(c, path)
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err != nil {
			return c.missing("start swtpm on it, or unset TERO_TPM", "no answer on the socket in TERO_TPM: %s", path)
		}
		_ = conn.Close()
		return c.ok("a virtual one at %s (TERO_TPM)", path)
	}
	return deviceTPM(c, "/dev/tpmrm0")
}

// deviceTPM looks for a TPM of the kernel's.
func deviceTPM(c Check, path string) Check {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // the operator's own choice
	if err != nil {
		return c.warn("evidence is of level L0 (software key) without; give the machine a TPM 2.0, or name an swtpm socket in TERO_TPM", "%s is %s", path, reason(err))
	}
	_ = f.Close()
	return c.ok("%s", path)
}

// confidentialCheck looks for confidential computing, as a guest and as a host.
func confidentialCheck() Check {
	c := check("trust", "SEV-SNP or TDX", "evidence that does not trust the host (level L3)")
	for path, name := range map[string]string{"/dev/sev-guest": "SEV-SNP guest", "/dev/tdx_guest": "TDX guest"} {
		if _, err := os.Stat(path); err == nil {
			return c.ok("%s (%s)", name, path)
		}
	}
	for path, name := range map[string]string{
		"/sys/module/kvm_amd/parameters/sev_snp": "SEV-SNP host", "/sys/module/kvm_intel/parameters/tdx": "TDX host",
	} {
		if v := readTrimmed(path); v == "Y" || v == "1" {
			return c.ok("%s (%s)", name, path)
		}
	}
	return c.warn("run the node in a confidential guest to reach level L3", "neither a guest nor a host of one")
}

// exchangeCheck makes a TLS handshake in memory with the hybrid key exchange only.
func exchangeCheck(ctx context.Context) Check {
	c := check("trust", "X25519MLKEM768", "TLS that a later quantum computer cannot read")
	if err := handshake(ctx); err != nil {
		return c.warn("unset GODEBUG, which may turn it off", "no handshake: %v", err)
	}
	return c.ok("a TLS 1.3 handshake used it")
}

func handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "doctor"}, DNSNames: []string{"doctor"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	curves := []tls.CurveID{tls.X25519MLKEM768}
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	served := make(chan error, 1)
	go func() {
		defer func() { _ = far.Close() }()
		server := tls.Server(far, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, CurvePreferences: curves,
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		})
		served <- server.HandshakeContext(ctx)
	}()
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "doctor", CurvePreferences: curves, MinVersion: tls.VersionTLS13})
	err = client.HandshakeContext(ctx)
	if err != nil {
		_ = near.Close() // the server waits for it
	}
	if err2 := <-served; err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	if got := client.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
		return fmt.Errorf("negotiated %v", got)
	}
	return nil
}

func fipsCheck() Check {
	c := check("trust", "FIPS 140-3", "required by some operators; not by TERO")
	if fips140.Enabled() {
		return c.ok("Go's module %s is in force", fips140.Version())
	}
	return c.ok("off; GODEBUG=fips140=on turns Go's module on")
}

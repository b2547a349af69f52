package register

import (
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// TPM is the register of a node with a TPM 2.0: PCR 13 in its SHA-256 bank
// and, where the TPM has one, in its SHA-384 bank.
type TPM struct {
	path string
	t    transport.TPMCloser
	ak   []byte
	// shared is true when no resource manager keeps users of the TPM apart.
	shared bool
	sha384 bool
}

// The NV indices of endorsement key certificates (TCG EK Credential Profile,
// section 2.2.1.4): RSA 2048, ECC P-256.
const (
	ekCertificateRSA tpm2.TPMHandle = 0x01C00002
	ekCertificateECC tpm2.TPMHandle = 0x01C0000A
)

// OpenTPM opens a unix socket (swtpm) or a character device (/dev/tpmrm0).
func OpenTPM(path string) (*TPM, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "the TPM %s cannot be opened: %w", path, err).
			WithHint("start swtpm before terod, or unset TERO_TPM to run at L0")
	}
	t := &TPM{path: path}
	switch {
	case fi.Mode()&os.ModeSocket != 0:
		t.t, t.shared = DialSocket(path), true
	case fi.Mode()&os.ModeCharDevice != 0:
		if t.t, err = linuxtpm.Open(path); err != nil {
			return nil, fault.New(fault.Unavailable, "the TPM %s cannot be opened: %w", path, err).
				WithHint("is another program using it? /dev/tpmrm0 can be shared, /dev/tpm0 cannot")
		}
	default:
		return nil, fault.New(fault.Invalid, "%s is neither a socket nor a character device", path).
			WithHint("TERO_TPM must name swtpm's unix socket or /dev/tpmrm0")
	}
	if err := t.probe(); err != nil {
		_ = t.t.Close()
		return nil, fault.New(fault.Unavailable, "the TPM %s does not work: %w", path, err).
			WithHint("does it speak TPM 2.0, was it started up, and has it a SHA-256 bank?")
	}
	return t, nil
}

// probe finds the banks and the attestation key.
func (t *TPM) probe() error {
	if _, err := t.read(tpm2.TPMAlgSHA256); err != nil {
		return err
	}
	_, err := t.read(tpm2.TPMAlgSHA384)
	t.sha384 = err == nil
	if err != nil && !errors.Is(err, errNoBank) {
		return err
	}
	return t.withAK(func(ak *tpm2.CreatePrimaryResponse) error {
		pub, err := ak.OutPublic.Contents()
		if err != nil {
			return fmt.Errorf("read the attestation key: %w", err)
		}
		t.ak = tpm2.Marshal(*pub)
		return nil
	})
}

// withAK runs use with the attestation key loaded. The key is derived from the
// TPM's seed each time: a TPM without resource manager has three places for
// loaded keys, and one that a killed daemon left behind would be lost.
func (t *TPM) withAK(use func(*tpm2.CreatePrimaryResponse) error) error {
	return t.withPrimary(tpm2.TPMRHEndorsement, bundle.AKTemplate(), use)
}

func (t *TPM) withPrimary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, use func(*tpm2.CreatePrimaryResponse) error) error {
	create := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}
	key, err := create.Execute(t.t)
	if errors.Is(err, tpm2.TPMRCObjectMemory) && t.shared {
		t.flushAll()
		key, err = create.Execute(t.t)
	}
	if err != nil {
		return fmt.Errorf("derive a key: %w", err)
	}
	err = use(key)
	if _, flush := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(t.t); flush != nil && err == nil {
		err = fmt.Errorf("unload a key: %w", flush)
	}
	return err
}

// flushAll unloads the keys that killed programs left loaded.
func (t *TPM) flushAll() {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 16}.Execute(t.t)
	if err != nil {
		return // the key is then not derived either, and that is told
	}
	hs, err := r.CapabilityData.Data.Handles()
	if err != nil {
		return
	}
	for _, h := range hs.Handle {
		_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.t)
	}
}

// errNoBank is a bank that the TPM does not have.
var errNoBank = errors.New("the TPM has no such PCR bank")

// read gives PCR 13 of a bank.
func (t *TPM) read(alg tpm2.TPMAlgID) ([]byte, error) {
	r, err := tpm2.PCRRead{PCRSelectionIn: bundle.Selection(alg)}.Execute(t.t)
	if err != nil {
		if errors.Is(err, tpm2.TPMRCHash) {
			return nil, errNoBank
		}
		return nil, fmt.Errorf("read PCR %d: %w", record.PCR, err)
	}
	if len(r.PCRValues.Digests) != 1 {
		return nil, errNoBank
	}
	return r.PCRValues.Digests[0].Buffer, nil
}

// State reads the clock and PCR 13.
func (t *TPM) State() (State, error) {
	clock, err := tpm2.ReadClock{}.Execute(t.t)
	if err != nil {
		return State{}, t.fault("read the clock", err)
	}
	info := clock.CurrentTime.ClockInfo
	s := State{Boot: bundle.BootName(info.ResetCount, info.RestartCount), Cycle: bundle.BootCycle(info.ResetCount), OneBank: !t.sha384}
	v, err := t.read(tpm2.TPMAlgSHA256)
	if err != nil {
		return State{}, t.fault("read the SHA-256 bank", err)
	}
	copy(s.Value.SHA256[:], v)
	if t.sha384 {
		if v, err = t.read(tpm2.TPMAlgSHA384); err != nil {
			return State{}, t.fault("read the SHA-384 bank", err)
		}
		copy(s.Value.SHA384[:], v)
	}
	return s, nil
}

// Extend extends PCR 13 in all its banks, digest by digest.
func (t *TPM) Extend(ds []record.Digests) error {
	for _, d := range ds {
		values := []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: d.SHA256[:]}}
		if t.sha384 {
			values = append(values, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgSHA384, Digest: d.SHA384[:]})
		}
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: record.PCR, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: values},
		}.Execute(t.t)
		if err != nil {
			return t.fault("extend PCR 13", err)
		}
	}
	return nil
}

// Quote has PCR 13 signed by the attestation key.
func (t *TPM) Quote(extra []byte) (*bundle.Quote, error) {
	var q bundle.Quote
	err := t.withAK(func(ak *tpm2.CreatePrimaryResponse) error {
		r, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: extra},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      bundle.Selection(bundle.Algorithms(t.banks())...),
		}.Execute(t.t)
		if err != nil {
			return err
		}
		q = bundle.Quote{Attest: r.Quoted.Bytes(), Signature: tpm2.Marshal(r.Signature)}
		return nil
	})
	if err != nil {
		return nil, t.fault("quote", err)
	}
	return &q, nil
}

func (t *TPM) banks() []string {
	if t.sha384 {
		return []string{"sha256", "sha384"}
	}
	return []string{"sha256"}
}

// Enrol adds the attestation key; whole adds the endorsement key and its
// certificate, if the TPM holds one.
func (t *TPM) Enrol(e *bundle.Enrolment, whole bool) error {
	e.TPM = &bundle.TPMKeys{AK: t.ak, Banks: t.banks()}
	if !whole {
		return nil
	}
	template := tpm2.RSAEKTemplate
	cert, err := t.certificate(ekCertificateRSA)
	if errors.Is(err, errNoCertificate) {
		if cert, err = t.certificate(ekCertificateECC); err == nil {
			template = tpm2.ECCEKTemplate
		}
	}
	if err != nil && !errors.Is(err, errNoCertificate) {
		return t.fault("read the endorsement key's certificate", err)
	}
	e.TPM.EKCertificate = cert
	err = t.withPrimary(tpm2.TPMRHEndorsement, template, func(ek *tpm2.CreatePrimaryResponse) error {
		pub, err := ek.OutPublic.Contents()
		if err != nil {
			return err
		}
		e.TPM.EK = tpm2.Marshal(*pub)
		return nil
	})
	if err != nil {
		return t.fault("derive the endorsement key", err)
	}
	return nil
}

// errNoCertificate is an NV index that is not defined.
var errNoCertificate = errors.New("the TPM holds no such certificate")

// certificate reads an endorsement key's certificate; some TPMs pad it.
func (t *TPM) certificate(index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, errNoCertificate
	}
	if err != nil {
		return nil, err
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	var der []byte
	for len(der) < int(area.DataSize) {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       uint16(min(512, int(area.DataSize)-len(der))), //nolint:gosec // 512 at most.
			Offset:     uint16(len(der)),                              //nolint:gosec // DataSize is a uint16.
		}.Execute(t.t)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		der = append(der, r.Data.Buffer...)
	}
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(der, &raw); err != nil {
		return nil, err
	}
	return raw.FullBytes, nil
}

// Close closes the connection.
func (t *TPM) Close() error { return t.t.Close() }

func (t *TPM) fault(what string, err error) error {
	return fault.New(fault.Unavailable, "the TPM %s failed (%s): %w", t.path, what, err).
		WithHint("is swtpm still running? nothing is launched that the TPM does not record")
}

// socket talks to a software TPM. Each command has a connection of its own, so
// that other programs get their turn, and a time limit.
type socket struct{ path string }

// commandTimeout is far above what a software TPM needs for an RSA key.
const commandTimeout = 30 * time.Second

// maxResponse is the most a TPM answers (TPM_PT_MAX_RESPONSE_SIZE is 4096).
const maxResponse = 64 << 10

// DialSocket gives the way to a software TPM at a unix socket.
func DialSocket(path string) transport.TPMCloser { return &socket{path: path} }

// Send sends a command and gives its response.
func (s *socket) Send(command []byte) ([]byte, error) {
	d := net.Dialer{Timeout: commandTimeout}
	c, err := d.Dial("unix", s.path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, 10, 4096) // tag, size, code
	if _, err := io.ReadFull(c, response); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < 10 || size > maxResponse {
		return nil, fmt.Errorf("the TPM announces a response of %d bytes", size)
	}
	response = append(response, make([]byte, size-10)...)
	if _, err := io.ReadFull(c, response[10:]); err != nil {
		return nil, err
	}
	return response, nil
}

// Close does nothing: no connection outlives its command.
func (s *socket) Close() error { return nil }

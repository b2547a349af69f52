package evidence

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/opencontainers/go-digest"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
	"tero.internal/attestation/verify"
	"tero.internal/common/workload"
)

// swtpm is a software TPM of this test's own.
type swtpm struct {
	t    testing.TB
	dir  string
	path string
	cmd  *exec.Cmd
}

func startTPM(t testing.TB) *swtpm {
	t.Helper()
	dir := t.TempDir()
	s := &swtpm{t: t, dir: dir, path: filepath.Join(dir, "s")}
	t.Cleanup(s.stop)
	s.start("clear")
	return s
}

// start starts it as after a reboot ("clear") or after a suspend ("state").
func (s *swtpm) start(how string) {
	s.t.Helper()
	s.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.dir, "--server", "type=unixio,path="+s.path,
		"--flags", "not-need-init,startup-"+how, "--seccomp", "action=kill")
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("unix", s.path)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("swtpm does not answer: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (s *swtpm) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
		_ = os.Remove(s.path)
	}
}

// reboot resets the TPM as a reboot does.
func (s *swtpm) reboot() {
	s.t.Helper()
	s.stop()
	s.start("clear")
}

// suspend puts the machine to sleep in memory and wakes it up.
func (s *swtpm) suspend() {
	s.t.Helper()
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}).Execute(register.DialSocket(s.path)); err != nil {
		s.t.Fatal(err)
	}
	s.stop()
	s.start("state")
}

// extend extends PCR 13 behind the log's back.
func (s *swtpm) extend(text string) {
	s.t.Helper()
	r, err := register.OpenTPM(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Extend([]record.Digests{record.Sum([]byte(text))}); err != nil {
		s.t.Fatal(err)
	}
}

func config(t testing.TB, tpmPath string) Config {
	return Config{
		StateDir: filepath.Join(t.TempDir(), "evidence"), NodeName: "node1", SPIFFEID: "spiffe://node1.tero/node/node1",
		TPM: tpmPath, Log: slog.New(slog.DiscardHandler),
	}
}

// mustOpen opens a log that closes with the test.
func mustOpen(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func launch(name string) workload.Measurement {
	return workload.Measurement{
		Container: workload.ID(digest.FromString(name).Encoded()[:32]), Name: name, ImageRef: "localhost/" + name + ":v1",
		Image: digest.FromString("image " + name), Config: digest.FromString("config " + name),
		Mounts: digest.FromString("mounts"), Policy: digest.FromString("policy"), SPIFFEID: "spiffe://node1.tero/workload/" + name,
	}
}

func mustMeasure(t testing.TB, l *Log, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := l.Measure(context.Background(), launch(n)); err != nil {
			t.Fatalf("measure %s: %v", n, err)
		}
	}
}

// mustVerify has a verifier judge fresh evidence of the log.
func mustVerify(t testing.TB, l *Log) *verify.Result {
	t.Helper()
	nonce := []byte("a nonce of 16 bytes or more")
	b, err := l.Attest(context.Background(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Verify(b, verify.Trust{Enrolment: mustEnrol(t, l)}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustEnrol(t testing.TB, l *Log) *bundle.Enrolment {
	t.Helper()
	e, err := l.Enrolment(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if e, err = verify.ParseEnrolment(data); err != nil {
		t.Fatal(err)
	}
	return e
}

// kinds gives the records' kinds and the launches' names, for comparison.
func kinds(t testing.TB, l *Log) []string {
	t.Helper()
	es, err := l.Records(context.Background(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := range es {
		out = append(out, es[i].Name())
	}
	return out
}

// eachRegister runs a test at L0 and at L1.
func eachRegister(t *testing.T, test func(t *testing.T, cfg Config, tpm *swtpm)) {
	t.Run("L0", func(t *testing.T) { test(t, config(t, ""), nil) })
	t.Run("L1", func(t *testing.T) {
		s := startTPM(t)
		test(t, config(t, s.path), s)
	})
}

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tero.internal/test/testnode"
)

// TestRemoteAPI reaches the node over TCP with a certificate that it issued,
// and is refused what its policies do not permit.
func TestRemoteAPI(t *testing.T) {
	n := started(t, "remote", "--address=127.0.0.1:7444")
	tero(t, n, 0, "identity", "issue-user", "ann")
	remote := func(args ...string) testnode.Result {
		// The node listens in its own network namespace: so must the caller be.
		bin, err := binaries()
		if err != nil {
			t.Fatal(err)
		}
		work := n.WorkDir()
		all := append([]string{
			filepath.Join(bin, "tero"), "--address", "127.0.0.1:7444",
			"--tls-ca", filepath.Join(work, "ca.crt"), "--tls-cert", filepath.Join(work, "ann.crt"), "--tls-key", filepath.Join(work, "ann.key"),
		}, args...)
		out, err := n.InNetNS(t.Context(), all...)
		r := testnode.Result{Stdout: out}
		if err != nil {
			r.Code, r.Stderr = 126, err.Error()
		}
		return r
	}
	// Nobody but root may do anything by default.
	if r := remote("ps"); r.Code == 0 || !strings.Contains(r.Stderr, "spiffe://remote.tero/user/ann") {
		t.Errorf("ps by ann: code %d, %s%s; want a refusal that names her", r.Code, r.Stdout, r.Stderr)
	}
}

// TestSoftwareTPM runs a node on a TPM emulator: its evidence is a quote, and
// the verifier says L1, no more.
func TestSoftwareTPM(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "tpm.sock")
	tpm := exec.CommandContext(context.WithoutCancel(t.Context()), "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	if err := tpm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tpm.Process.Kill()
		_ = tpm.Wait()
	})
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		_, err := os.Stat(socket)
		return err == nil, "swtpm does not listen"
	}); err != nil {
		t.Fatal(err)
	}
	n := started(t, "tpm", "--tpm="+socket)
	if got := tero(t, n, 0, "status").Stdout; !strings.Contains(got, "L1") {
		t.Errorf("status does not say L1:\n%s", got)
	}
	tero(t, n, 0, "run", "--rm", "--name", "measured", "--min-level", "L1", "true:v1")
	enrolment := tero(t, n, 0, "attest", "enrolment").Stdout
	if err := os.WriteFile(filepath.Join(n.WorkDir(), "enrolment.json"), []byte(enrolment), 0o600); err != nil {
		t.Fatal(err)
	}
	const nonce = "00112233445566778899aabbccddeeff"
	tero(t, n, 0, "attest", "--nonce", nonce, "--file", "evidence.json")
	verify := func(code int, args ...string) string {
		t.Helper()
		r := tero(t, n, code, append([]string{"verify", "--enrolment", "enrolment.json"}, args...)...)
		return r.Stdout + r.Stderr
	}
	got := verify(0, "--nonce", nonce, "evidence.json")
	if !strings.Contains(got, "L1") || !strings.Contains(got, "measured") {
		t.Errorf("verification says:\n%s", got)
	}
	if got := verify(125, "--nonce", strings.Repeat("ab", 16), "evidence.json"); !strings.Contains(got, "another challenge") {
		t.Errorf("evidence for another nonce: %s", got)
	}
	// After kill -9 and restart the register and the log still agree.
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tero(t, n, 0, "run", "--rm", "--name", "again", "true:v1")
	tero(t, n, 0, "attest", "--nonce", nonce, "--file", "later.json")
	if got := verify(0, "--nonce", nonce, "later.json"); !strings.Contains(got, "again") {
		t.Errorf("verification says:\n%s", got)
	}
}

// TestCNI attaches a namespace that TERO did not make through quantum-cni and
// the node's CNI socket, as containerd and Podman do, and finds it denied.
func TestCNI(t *testing.T) {
	n := started(t, "cni")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	address, _, _ := strings.Cut(inspect(t, n, "web").Endpoint.Address, "/")
	const foreign = "tero-cni-foreign"
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("netns", "add", foreign)
	t.Cleanup(func() { ip("netns", "del", foreign) })
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	plugin := func(command string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "quantum-cni"))
		cmd.Env = append(os.Environ(), "QUANTUM_CNI_SOCKET="+filepath.Join(n.RunDir(), "cni.sock"), "CNI_COMMAND="+command,
			"CNI_CONTAINERID=foreign1", "CNI_NETNS=/run/netns/"+foreign, "CNI_IFNAME=eth0", "CNI_PATH="+bin)
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"default","type":"quantum-cni"}`)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("quantum-cni %s: %v: %s", command, err, out)
		}
		return string(out)
	}
	if got := plugin("ADD"); !strings.Contains(got, `"eth0"`) || !strings.Contains(got, "10.210.") {
		t.Errorf("ADD gave %s", got)
	}
	client := filepath.Join(n.Examples(), "client")
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", foreign, client, "-once", "-timeout", "1s", "http://"+address+":8080/").CombinedOutput()
	if err == nil {
		t.Errorf("a foreign container reached web although no segment allows it: %s", out)
	}
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		got := tero(t, n, 0, "flows", "--denied").Stdout
		return strings.Contains(got, "default-deny"), "the flow log does not tell of it: " + got
	}); err != nil {
		t.Error(err)
	}
	plugin("DEL")
}

// TestStreams follows what comes out of a container, and what exec brings.
func TestStreams(t *testing.T) {
	n := started(t, "streams")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	if r := tero(t, n, 1, "exec", "web", "/web", "-check", "-addr", ":1"); !strings.Contains(r.Stderr, "unhealthy") {
		t.Errorf("exec's standard error: %q", r.Stderr)
	}
	refused(t, n.Tero(t.Context(), "exec", "web", "/bin/sh"), 127, "/bin/sh")
	if got := tero(t, n, 0, "logs", "--tail", "1", "web").Stdout; strings.Count(got, "\n") != 1 {
		t.Errorf("logs --tail 1 gave %q", got)
	}
	if r := tero(t, n, 0, "stop", "web"); !strings.Contains(r.Stdout, "exit code 0") {
		t.Errorf("stop: %s", r.Stdout)
	}
	refused(t, n.Tero(t.Context(), "exec", "web", "/web", "-check"), 125, "has exited", "tero logs web")
}

// TestInput gives containers and further processes a standard input that ends,
// and a terminal.
func TestInput(t *testing.T) {
	n := started(t, "input")
	cat := filepath.Join(n.WorkDir(), "cat")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", cat, "./testdata/cat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tero(t, n, 0, "image", "build", "-t", "cat:v1", "--layout", "images", cat)
	tero(t, n, 0, "image", "sign", "--key", "test.key", "--layout", "images", "cat:v1")
	tero(t, n, 0, "image", "import", "images")
	check := func(r testnode.Result, wants ...string) {
		t.Helper()
		if r.Code != 0 {
			t.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		for _, w := range wants {
			if !strings.Contains(r.Stdout+r.Stderr, w) {
				t.Errorf("output without %q:\n%s%s", w, r.Stdout, r.Stderr)
			}
		}
	}
	ctx := t.Context()
	large := strings.Repeat("0123456789abcdef\n", 64<<10) // 1.1 MB: more than any pipe holds
	r := n.TeroInput(ctx, strings.NewReader(large), "run", "--rm", "-i", "cat:v1")
	check(r, "no terminal", "end of input")
	if want := large + "end of input\n"; r.Stdout != want {
		t.Errorf("%d bytes came back, want %d", len(r.Stdout), len(want))
	}
	check(n.TeroInput(ctx, strings.NewReader("unseen"), "run", "--rm", "cat:v1"), "end of input")

	tero(t, n, 0, "run", "-d", "-i", "--name", "cat", "cat:v1")
	r = n.TeroInput(ctx, strings.NewReader(large), "exec", "-i", "cat", "/cat")
	check(r, "end of input")
	if want := large + "end of input\n"; r.Stdout != want {
		t.Errorf("by exec %d bytes came back, want %d", len(r.Stdout), len(want))
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"run --rm -it cat:v1", "exec -it cat /cat"} {
		out, err := typing(t, n, filepath.Join(bin, "tero")+" "+args, "columns", "typed\n\x04")
		if err != nil || !strings.Contains(out, "terminal of 33 rows and 99 columns") || !strings.Contains(out, "typed\r\n") || !strings.Contains(out, "end of input") {
			t.Errorf("tero %s on a terminal: %v\n%s", args, err, out)
		}
	}
}

// typing runs a command on a terminal of 33 rows and 99 columns, types text when
// the command has said ready, and gives all that was on the screen.
func typing(t *testing.T, n *testnode.Node, command, ready, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	script := exec.CommandContext(ctx, "script", "-qec", "stty rows 33 cols 99; "+command, "/dev/null")
	script.Env = append(os.Environ(), "TERO_SOCKET="+n.Socket(), "TERM=xterm")
	stdin, err := script.StdinPipe()
	if err != nil {
		return "", err
	}
	stdout, err := script.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := script.Start(); err != nil {
		return "", err
	}
	var screen strings.Builder
	buf := make([]byte, 4096)
	for typed := false; ; {
		k, err := stdout.Read(buf)
		screen.Write(buf[:k])
		if !typed && strings.Contains(screen.String(), ready) {
			typed = true
			if _, err := stdin.Write([]byte(text)); err != nil {
				return screen.String(), err
			}
		}
		if err != nil {
			break
		}
	}
	return screen.String(), script.Wait()
}

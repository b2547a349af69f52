package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// build builds an example as the demo does: static, for a root with nothing else in it.
func build(t *testing.T, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", out, "./"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, b)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, _ := f.ImportedLibraries(); len(libs) > 0 {
		t.Errorf("%s is not static: it needs %q", name, libs)
	}
	return out
}

func TestTrueAndRogue(t *testing.T) {
	t.Parallel()
	if b, err := exec.CommandContext(t.Context(), build(t, "true")).CombinedOutput(); err != nil || len(b) > 0 {
		t.Errorf("true: %v, output %q; want exit code 0 and none", err, b)
	}
	b, err := exec.CommandContext(t.Context(), build(t, "rogue")).Output()
	if err != nil || !strings.HasPrefix(string(b), "rogue: I ran as uid ") {
		t.Errorf("rogue: %v, output %q", err, b)
	}
}

var addressPattern = regexp.MustCompile(`address=(\S+)`)

func TestWebAndClient(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	web := exec.CommandContext(ctx, build(t, "web"), "-addr", "127.0.0.1:0")
	stdout, err := web.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := web.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = web.Process.Kill() }()
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	m := addressPattern.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("first line %q names no address", line)
	}
	url := "http://" + m[1] + "/who"

	client := build(t, "client")
	host, _ := os.Hostname()
	b, err := exec.CommandContext(ctx, client, "-once", url).Output()
	if err != nil || !strings.HasPrefix(string(b), "OK "+url) || !strings.Contains(string(b), "200 OK: hello from "+host) {
		t.Errorf("client -once: %v, output %q", err, b)
	}
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "path=/who") {
		t.Errorf("web logged %q (%v), want the request", line, err)
	}
	testClientLoops(ctx, t, client, url)

	if err := web.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(lines); err != nil {
		t.Fatal(err)
	}
	if err := web.Wait(); err != nil {
		t.Errorf("web on SIGTERM: %v, want exit code 0", err)
	}
	if !strings.Contains(rest.String(), "msg=ending") {
		t.Errorf("web did not say that it ends: %q", rest.String())
	}

	// Nobody serves there any more.
	b, err = exec.CommandContext(ctx, client, "-once", url).Output()
	if code := exitCode(err); code != 1 || !strings.HasPrefix(string(b), "FAILED "+url) {
		t.Errorf("client -once against nobody: exit code %d, output %q; want 1 and FAILED", code, b)
	}
}

// testClientLoops checks that without -once it goes on until SIGTERM.
func testClientLoops(ctx context.Context, t *testing.T, client, url string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, client, url)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for range 2 {
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
			t.Errorf("client wrote %q (%v)", line, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("client on SIGTERM: %v, want exit code 0", err)
	}
}

func TestClientGivesUp(t *testing.T) {
	t.Parallel()
	// 192.0.2.0/24 is for documentation (RFC 5737): no answer comes, or a refusal.
	began := time.Now()
	b, err := exec.CommandContext(t.Context(), build(t, "client"), "-once", "-timeout", "300ms", "http://192.0.2.1/").Output()
	if code := exitCode(err); code != 1 || !strings.HasPrefix(string(b), "FAILED ") {
		t.Errorf("exit code %d, output %q; want 1 and FAILED", code, b)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("gave up after %s", took)
	}
	if code := exitCode(exec.CommandContext(t.Context(), build(t, "client")).Run()); code != 2 {
		t.Errorf("without a URL: exit code %d, want 2", code)
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // straight from Run
		return e.ExitCode()
	}
	return -1
}

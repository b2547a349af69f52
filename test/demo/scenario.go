package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"tero.internal/test/testnode"
)

// step is one numbered part of the demo.
type step struct {
	title string
	play  func(context.Context) error
}

// scenario is the demo's story and what it remembers from step to step.
type scenario struct {
	node *testnode.Node
	// webAddress is where web listens, without the network's prefix length.
	webAddress string
}

func (s *scenario) steps() []step {
	return []step{
		{"A node comes up", s.nodeUp},
		{"Images are built, two of three are signed, all are imported", s.images},
		{"web runs: admitted, measured, identified, connected", s.runWeb},
		{"client reaches web by name, because a segment allows it", s.runClient},
		{"The same client from a workload that no segment allows is refused", s.runStranger},
		{"What is not allowed does not run: an unsigned image, and a :latest tag", s.refused},
		{"What ran is proved to somebody who trusts nobody", s.prove},
		{"Daily work, the crash of the daemon, and the end", s.dailyWork},
	}
}

// expect runs a tero command, shows it with its first lines of output, and
// fails unless it ends with code and everything in wants stands in its output.
func (s *scenario) expect(ctx context.Context, code int, args []string, wants ...string) (testnode.Result, error) {
	fmt.Printf("   $ tero %s\n", strings.Join(args, " "))
	r := s.node.Tero(ctx, args...)
	show(r.Stdout + r.Stderr)
	if r.Code != code {
		return r, fmt.Errorf("tero %s ended with code %d, want %d: %s", strings.Join(args, " "), r.Code, code, r.Stderr)
	}
	for _, w := range wants {
		if !strings.Contains(r.Stdout+r.Stderr, w) {
			return r, fmt.Errorf("tero %s did not say %q, but:\n%s%s", strings.Join(args, " "), w, r.Stdout, r.Stderr)
		}
	}
	return r, nil
}

// all runs commands that must succeed.
func (s *scenario) all(ctx context.Context, commands ...[]string) error {
	for _, c := range commands {
		if _, err := s.expect(ctx, 0, c); err != nil {
			return err
		}
	}
	return nil
}

// shown is how many lines of a command's output the demo prints, and width how
// much of each.
const (
	shown = 14
	width = 150
)

func show(out string) {
	n := 0
	for line := range strings.Lines(out) {
		if n++; n > shown {
			fmt.Println("     ...")
			return
		}
		text := []rune(strings.TrimRight(line, "\n"))
		if len(text) > width {
			text = append(text[:width], '…')
		}
		fmt.Printf("     %s\n", string(text))
	}
}

func (s *scenario) nodeUp(ctx context.Context) error {
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	_, err := s.expect(ctx, 0, []string{"status"}, "demo", "L0", s.node.Socket(), "127.0.0.1:7443")
	return err
}

// images makes images on the spot from TERO's own example programs, signs all
// but one, imports them, and installs the admission plugin.
func (s *scenario) images(ctx context.Context) error {
	programs := s.node.Examples()
	build := func(tag, program string) []string {
		return []string{"image", "build", "-t", tag, "--layout", "images", filepath.Join(programs, program)}
	}
	if err := s.all(ctx,
		[]string{"image", "keygen", "--plain", "--prefix", "demo"},
		build("web:v1", "web"), build("client:v1", "client"), build("rogue:v1", "rogue"), build("web:latest", "web"),
	); err != nil {
		return err
	}
	for _, signed := range []string{"web:v1", "client:v1", "web:latest"} {
		if _, err := s.expect(ctx, 0, []string{"image", "sign", "--key", "demo.key", "--layout", "images", signed}); err != nil {
			return err
		}
	}
	// The operator trusts the key by putting its public half into the node's trust folder.
	for _, kind := range []string{"images", "plugins"} {
		if err := copyFile(filepath.Join(s.node.WorkDir(), "demo.pub"), filepath.Join(s.node.StateDir(), "trust", kind, "demo.pub")); err != nil {
			return err
		}
	}
	if _, err := s.expect(ctx, 0, []string{"image", "import", "images"}); err != nil {
		return err
	}
	if _, err := s.expect(ctx, 0, []string{"image", "ls"}, "localhost/web:v1", "localhost/rogue:v1", "demo"); err != nil {
		return err
	}
	manifest, err := filepath.Abs("examples/plugins/nolatest/manifest.json")
	if err != nil {
		return err
	}
	return s.all(ctx,
		[]string{"plugin", "pack", "--manifest", manifest, "--layout", "nolatest", filepath.Join(programs, "nolatest.wasm")},
		[]string{"plugin", "sign", "--key", "demo.key", "nolatest"},
		[]string{"plugin", "install", "--grant-required", "nolatest"},
		[]string{"plugin", "ls"},
	)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// container is what the demo reads of a container in JSON.
type container struct {
	ID       string `json:"id"`
	SPIFFEID string `json:"spiffeId"`
	Level    string `json:"level"`
	Endpoint struct {
		Address string `json:"address"`
	} `json:"endpoint"`
	Policies []string `json:"policies"`
}

func (s *scenario) inspect(ctx context.Context, name string) (container, error) {
	var c container
	r := s.node.Tero(ctx, "inspect", "-o", "json", name)
	if r.Code != 0 {
		return c, fmt.Errorf("tero inspect: %s", r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &c); err != nil {
		return c, fmt.Errorf("tero inspect: %w", err)
	}
	return c, nil
}

func (s *scenario) runWeb(ctx context.Context) error {
	fmt.Println("   $ tero run -d -o json --name web web:v1")
	r := s.node.Tero(ctx, "run", "-d", "-o", "json", "--name", "web", "web:v1")
	if r.Code != 0 {
		return fmt.Errorf("tero run: %s", r.Stderr)
	}
	var launched struct {
		Container  container `json:"container"`
		DurationUS int64     `json:"durationUs,string"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &launched); err != nil {
		return fmt.Errorf("tero run: %w: %s", err, r.Stdout)
	}
	c := launched.Container
	if c.SPIFFEID != "spiffe://demo.tero/workload/web" || c.Level != "L0" || len(c.Policies) == 0 || launched.DurationUS == 0 {
		return fmt.Errorf("web is not identified, measured and admitted: %s", r.Stdout)
	}
	s.webAddress, _, _ = strings.Cut(c.Endpoint.Address, "/")
	fmt.Printf("     admitted by policy %s, measured at %s, known as %s, at %s\n     from request to started: %.1f ms at the node, %.1f ms for the whole command\n",
		strings.Join(c.Policies, ", "), c.Level, c.SPIFFEID, s.webAddress, float64(launched.DurationUS)/1000, float64(r.Took.Microseconds())/1000)
	_, err := s.expect(ctx, 0, []string{"ps"}, "web", "running")
	return err
}

// segment lets client, and only client, reach web.
const segment = `kind: Segment
name: web-from-client
to: {workload: web}
from: [{workload: client}]
ports: [{protocol: tcp, port: 8080}]
`

func (s *scenario) runClient(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(s.node.WorkDir(), "segment.yaml"), []byte(segment), 0o600); err != nil {
		return err
	}
	if err := s.all(ctx, []string{"segment", "apply", "segment.yaml"}); err != nil {
		return err
	}
	_, err := s.expect(ctx, 0, []string{"run", "--rm", "--name", "client", "client:v1", "-once", "http://web:8080/"}, "hello from web")
	return err
}

func (s *scenario) runStranger(ctx context.Context) error {
	_, err := s.expect(ctx, 1, []string{
		"run", "--rm", "--name", "stranger", "client:v1", "-once", "-timeout", "2s", "http://" + s.webAddress + ":8080/",
	})
	if err != nil {
		return err
	}
	return testnode.WaitFor(ctx, func() (bool, string) {
		r := s.node.Tero(ctx, "flows")
		for line := range strings.Lines(r.Stdout) {
			if strings.Contains(line, "stranger") && strings.Contains(line, "denied") && strings.Contains(line, "web-from-client") {
				fmt.Printf("   $ tero flows\n")
				show(line)
				return true, ""
			}
		}
		return false, "the flow log does not tell why stranger was refused:\n" + r.Stdout + r.Stderr
	})
}

const refusedCode = 126

func (s *scenario) refused(ctx context.Context) error {
	r, err := s.expect(ctx, refusedCode, []string{"run", "--rm", "--name", "rogue", "rogue:v1"}, "refused", "allow-signed", "not signed")
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, "rogue") {
		return fmt.Errorf("the rogue program ran: %s", r.Stdout)
	}
	if id := regexp.MustCompile(`tero policy why ([0-9a-zA-Z-]+)`).FindStringSubmatch(r.Stderr); id != nil {
		if _, err := s.expect(ctx, 0, []string{"policy", "why", id[1]}, "allow-signed"); err != nil {
			return err
		}
	} else {
		return fmt.Errorf("the refusal does not say how to ask why: %s", r.Stderr)
	}
	_, err = s.expect(ctx, refusedCode, []string{"run", "--rm", "--name", "latest", "web:latest"}, "nolatest", "latest")
	return err
}

func (s *scenario) prove(ctx context.Context) error {
	// The operator keeps the enrolment record from the day the node was set up.
	r, err := s.expect(ctx, 0, []string{"attest", "enrolment"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.node.WorkDir(), "enrolment.json"), []byte(r.Stdout), 0o600); err != nil {
		return err
	}
	if _, err := s.expect(ctx, 0, []string{"attest", "--file", "evidence.json"}); err != nil {
		return err
	}
	if _, err := s.expect(ctx, 0, []string{"verify", "--enrolment", "enrolment.json", "evidence.json"}, "L0", "web", "client", "stranger"); err != nil {
		return err
	}
	name, err := flipByte(filepath.Join(s.node.WorkDir(), "evidence.json"), filepath.Join(s.node.WorkDir(), "forged.json"))
	if err != nil {
		return err
	}
	fmt.Printf("   one byte of %s is flipped:\n", name)
	r = s.node.Tero(ctx, "verify", "--enrolment", "enrolment.json", "forged.json")
	show(r.Stdout + r.Stderr)
	if r.Code == 0 || !strings.Contains(r.Stderr, name) {
		return fmt.Errorf("verification of forged evidence ended with code %d and did not name %s: %s", r.Code, name, r.Stderr)
	}
	return nil
}

func (s *scenario) dailyWork(ctx context.Context) error {
	before, err := s.inspect(ctx, "web")
	if err != nil {
		return err
	}
	fmt.Println("   terod is killed with SIGKILL and started again:")
	if err := s.node.Kill9(); err != nil {
		return err
	}
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	after, err := s.inspect(ctx, "web")
	if err != nil {
		return err
	}
	if after.ID != before.ID || after.Endpoint != before.Endpoint {
		return fmt.Errorf("web did not outlive the daemon: %+v, then %+v", before, after)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ps"}, "running"},
		{[]string{"logs", "web"}, "method=GET path=/"},
		{[]string{"exec", "web", "/web", "-check"}, "healthy: 200 OK"},
		{[]string{"run", "--rm", "--name", "client", "client:v1", "-once", "http://web:8080/"}, "hello from web"},
		{[]string{"stop", "web"}, "web"},
		{[]string{"rm", "web"}, "web"},
	} {
		if _, err := s.expect(ctx, 0, c.args, c.want); err != nil {
			return err
		}
	}
	return s.node.Down(ctx)
}

// flipByte copies evidence with one digit of a digest in web's launch record
// changed, and tells which record that was.
func flipByte(from, to string) (string, error) {
	b, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	const digest = "sha256:"
	for line := range bytes.Lines(b) { // a line is a slice of b
		if !bytes.Contains(line, []byte("tero/v1 launch")) || !bytes.Contains(line, []byte("/workload/web")) {
			continue
		}
		i := bytes.Index(line, []byte(digest)) + len(digest)
		if line[i] == '0' {
			line[i] = '1'
		} else {
			line[i] = '0'
		}
		return "web", os.WriteFile(to, b, 0o600)
	}
	return "", fmt.Errorf("the evidence %s holds no launch of web", from)
}

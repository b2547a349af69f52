package sandboxtest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

func itoa(n int) string { return strconv.Itoa(n) }

// confinement looks at a container's sandbox from the inside.
func (s *Suite) confinement(t *testing.T) {
	exit, out := s.Run(t, s.Spec(t, "look"))
	if exit.Code != 0 {
		t.Fatalf("%+v %s", exit, out)
	}
	v := ParseView(t, out)
	s.checkView(t, v)
	if diff := cmp.Diff([]string{"1"}, v.Procs); diff != "" {
		t.Errorf("processes: %s", diff)
	}
	for ns, link := range v.Namespaces {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(ns, "time") {
			continue
		}
		if link == host {
			t.Errorf("namespace %s is the host's", ns)
		}
	}
	if diff := cmp.Diff([]string{"lo"}, v.Links); diff != "" {
		t.Errorf("links: %s", diff)
	}
	if v.Hostname != "probe" || v.Cwd != "/" || !v.Session || v.Umask != 0o022 {
		t.Errorf("host name %q, cwd %q, session leader %v, umask %o", v.Hostname, v.Cwd, v.Session, v.Umask)
	}
	if diff := cmp.Diff([]string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}, v.Dev); diff != "" {
		t.Errorf("/dev: %s", diff)
	}
	if strings.Contains(out, "/layer") && strings.Contains(out, "lowerdir=/") {
		t.Error("the mounts tell where the host keeps layers")
	}
}

// checkView checks what holds for every process of a container.
func (s *Suite) checkView(t *testing.T, v View) {
	t.Helper()
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if v.Status[set] != "0000000000000000" {
			t.Errorf("%s: %s", set, v.Status[set])
		}
	}
	if v.Status["NoNewPrivs"] != "1" || v.Status["Seccomp"] != "2" {
		t.Errorf("no_new_privs %s, seccomp %s", v.Status["NoNewPrivs"], v.Status["Seccomp"])
	}
	var first, host, size uint32
	if _, err := fmt.Sscan(v.UIDMap, &first, &host, &size); err != nil || first != 0 || host < 0x70000000 || size != 65536 {
		t.Errorf("uid map %q", v.UIDMap)
	}
	if v.Status["SigBlk"] != "0000000000000000" || v.Status["SigIgn"] != "0000000000000000" {
		t.Errorf("signals blocked %s, ignored %s", v.Status["SigBlk"], v.Status["SigIgn"])
	}
	for _, fd := range v.FDs {
		n, to, _ := strings.Cut(fd, " ")
		if number, _ := strconv.Atoi(n); number > 2 && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/proc/") {
			t.Errorf("descriptor %s leaked", fd)
		}
	}
	for line := range strings.Lines(v.Cgroup) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); f[2] != "/" && slices.Contains([]string{"", "memory", "pids", "cpu", "devices"}, f[1]) {
			t.Errorf("cgroup namespace shows %s", line)
		}
	}
	if !strings.Contains(v.Limits, "Max core file size        0                    0") {
		t.Errorf("limits: %s", v.Limits)
	}
}

// refusals tries what must not work.
func (s *Suite) refusals(t *testing.T) {
	_, out := s.Run(t, s.Spec(t, "try"))
	var got map[string]string
	out = out[strings.Index(out, "{") : strings.LastIndex(out, "}")+1] // what it wrote to /dev/stderr is in the log too, before or after
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	want := map[string]string{
		"write root": "open /file: read-only file system", "write tmp": "done", "write dev null": "done", "write stdout": "done",
		"write sysctl": "open /proc/sys/kernel/hostname: read-only file system", "write hosts": "open /etc/hosts: read-only file system",
		"mount":   "operation not permitted",
		"unshare": "operation not permitted", "setuid": "operation not permitted", "reboot": "operation not permitted",
		"keyctl": "operation not permitted", "bpf": "operation not permitted", "unknown": "function not implemented",
		"raw socket": "operation not permitted", "firmware": "", "interrupts": "",
	}
	if got["write sysrq"] == "done" {
		t.Error("/proc/sysrq-trigger was written")
	}
	delete(got, "write sysrq")                             // not every kernel has it
	for _, name := range []string{"mknod", "mknod null"} { // EACCES by Landlock, EPERM without
		if got[name] != "permission denied" && got[name] != "operation not permitted" {
			t.Errorf("%s: %s", name, got[name])
		}
		delete(got, name)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s", name, got[name])
		}
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %s, want %s", name, got[name], w)
		}
	}
}

func (s *Suite) writable(t *testing.T) {
	spec := s.Spec(t, "try")
	spec.WritableRootfs = true
	_, out := s.Run(t, spec)
	for _, want := range []string{`"write root":"done"`, `"write tmp":"done"`, `"write hosts":"open /etc/hosts: read-only file system"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

func (s *Suite) user(t *testing.T) {
	spec := s.Spec(t, "look")
	spec.User = "1000:2000"
	exit, out := s.Run(t, spec)
	if exit.Code != 0 {
		t.Fatalf("%+v %s", exit, out)
	}
	v := ParseView(t, out)
	s.checkView(t, v)
	if v.Status["Uid"] != "1000\t1000\t1000\t1000" || v.Status["Gid"] != "2000\t2000\t2000\t2000" || v.Status["Groups"] != "" {
		t.Errorf("uid %q, gid %q, groups %q", v.Status["Uid"], v.Status["Gid"], v.Status["Groups"])
	}
	spec = s.Spec(t, "try")
	spec.User = "1000:2000"
	if _, out := s.Run(t, spec); !strings.Contains(out, `"write stdout":"done"`) {
		t.Errorf("a user cannot open its own standard error: %s", out)
	}
}

func (s *Suite) capabilities(t *testing.T) {
	for user, ambient := range map[string]string{"0:0": "0000000000000000", "1000:1000": "0000000000002000"} {
		spec := s.Spec(t, "look")
		spec.CapAdd, spec.User = []string{"CAP_NET_RAW"}, user
		_, out := s.Run(t, spec)
		v := ParseView(t, out)
		for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
			if v.Status[set] != "0000000000002000" {
				t.Errorf("user %s: %s %s", user, set, v.Status[set])
			}
		}
		if v.Status["CapAmb"] != ambient {
			t.Errorf("user %s: ambient %s", user, v.Status["CapAmb"])
		}
	}
}

func (s *Suite) exec(t *testing.T) {
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	out, exit := s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "look"}, Env: []string{"EXTRA=1"}, Cwd: "/tmp"})
	if exit.Code != 0 {
		t.Fatalf("%+v %s", exit, out)
	}
	v := ParseView(t, out)
	s.checkView(t, v)
	if v.Cwd != "/tmp" || !slices.Contains(v.Env, "EXTRA=1") || !v.Session {
		t.Errorf("cwd %q, session leader %v, environment %q", v.Cwd, v.Session, v.Env)
	}
	if len(v.Procs) != 2 || v.Procs[0] != "1" {
		t.Errorf("processes %q", v.Procs)
	}
	for ns, link := range v.Namespaces {
		if host, _ := os.Readlink("/proc/self/ns/" + ns); host == link && !strings.HasPrefix(ns, "time") {
			t.Errorf("namespace %s is the host's", ns)
		}
	}
	if out, _ := s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "look"}, User: "7:8"}); !strings.Contains(out, `"Uid":"7\t7\t7\t7"`) {
		t.Errorf("another user: %s", out)
	}
	if _, exit := s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "exit", "9"}}); exit.Code != 9 {
		t.Errorf("%+v", exit)
	}
	_, err := s.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"nothing"}})
	if fault.KindOf(err) != fault.NotFound || fault.HintOf(err) == "" {
		t.Errorf("unknown command: %v", err)
	}
	p, err := s.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"/probe", "hold"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(t.Context(), id, 9); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code != 137 {
		t.Errorf("a process outlived its container: %+v, %v", exit, err)
	}
	s.End(t, id)
	if _, err := s.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"/probe"}}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("exec after the exit: %v", err)
	}
}

// execPipes opens the standard streams by name, which are pipes of the caller's.
func (s *Suite) execPipes(t *testing.T) {
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	for _, user := range []string{"0:0", "7:8"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString("typed\n"); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		out, _ := s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "print", "/dev/stdin"}, User: user, Stdin: r})
		_ = r.Close()
		if out != "typed\n" {
			t.Errorf("user %s reads /dev/stdin: %q", user, out)
		}
		if r, w, err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
		out, _ = s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "try"}, User: user, Stderr: w})
		_ = w.Close()
		written, _ := io.ReadAll(r)
		_ = r.Close()
		if string(written) != "x" || !strings.Contains(out, `"write stdout":"done"`) {
			t.Errorf("user %s writes to /dev/stderr: %q, %s", user, written, out)
		}
	}
}

// execute runs a process in a container to its end.
func (s *Suite) execute(t *testing.T, id workload.ID, spec sandbox.ExecSpec) (string, sandbox.Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	spec.Stdout = w
	p, err := s.Exec(t.Context(), id, spec)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), exit
}

func (s *Suite) execTerminal(t *testing.T) {
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	p, err := s.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"/probe", "cat"}, Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	terminal := p.Terminal()
	defer func() { _ = terminal.Close() }()
	if err := p.Resize(t.Context(), 12, 34); err != nil {
		t.Fatal(err)
	}
	if _, err := terminal.WriteString("x\n\x04"); err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(terminal) // ends with EIO
	if string(out) != "x\r\nx\r\nend\r\n" {
		t.Errorf("%q", out)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	for want, spec := range map[string]sandbox.ExecSpec{"33x77": {Rows: 33, Columns: 77}, "0x0": {}} {
		spec.Args, spec.Terminal = []string{"/probe", "size"}, true
		p, err := s.Exec(t.Context(), id, spec)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(p.Terminal()) // ends with EIO
		_ = p.Terminal().Close()
		if _, err := p.Wait(t.Context()); err != nil || string(out) != want+"\r\n" {
			t.Errorf("size %q for %s, %v", out, want, err)
		}
	}
}

func (s *Suite) memory(t *testing.T) {
	spec := s.Spec(t, "eat")
	spec.Resources.MemoryBytes = 16 << 20
	if exit, _ := s.Run(t, spec); !exit.OOMKilled || exit.Code != 137 || exit.Signal != unix.SIGKILL {
		t.Errorf("%+v", exit)
	}
	// A child alone was killed: that is told, and the code is the first process's own.
	spec.Args = []string{"/probe", "feed"}
	if exit, out := s.Run(t, spec); !exit.OOMKilled || exit.Code != 3 || exit.Signal != 0 || out != "child: signal: killed\n" {
		t.Errorf("%+v %q", exit, out)
	}
	spec.Args = []string{"/probe", "true"}
	if exit, _ := s.Run(t, spec); exit.OOMKilled || exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
}

func (s *Suite) tasks(t *testing.T) {
	spec := s.Spec(t, "fork", "200")
	spec.Resources.Pids = 32
	if exit, out := s.Run(t, spec); exit.Code == 0 && !strings.Contains(out, "refused after") {
		t.Errorf("%+v %s", exit, out)
	}
}

func (s *Suite) bigEnvironment(t *testing.T) {
	spec := s.Spec(t, "look")
	for i := range 10 {
		spec.Env = append(spec.Env, fmt.Sprintf("BIG%d=%s", i, strings.Repeat("x", 100_000)))
	}
	_, out := s.Run(t, spec)
	if v := ParseView(t, out); !slices.Contains(v.Env, spec.Env[len(spec.Env)-1]) {
		t.Error("the environment is not whole")
	}
}

// failures are launches that cannot work, with what they must say.
func (s *Suite) failures(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		cwd  string
		kind fault.Kind
		text string
	}{
		"no such path":    {[]string{"/nothing"}, "/", fault.NotFound, `command "/nothing" was not found`},
		"no such command": {[]string{"nothing"}, "/", fault.NotFound, `command "nothing" was not found`},
		"a folder":        {[]string{"/etc"}, "/", fault.Invalid, `not executable`},
		"no such folder":  {[]string{"/probe"}, "/nowhere", fault.NotFound, `working directory "/nowhere" does not exist`},
		"fd as folder":    {[]string{"/probe"}, "/proc/self/fd/7", fault.NotFound, `working directory`},
	} {
		t.Run(name, func(t *testing.T) {
			spec := s.Spec(t)
			spec.Args, spec.WorkingDir = c.args, c.cwd
			_, err := s.TryLaunch(t, spec)
			if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.text) || fault.HintOf(err) == "" {
				t.Errorf("%v (%v, hint %q)", err, fault.KindOf(err), fault.HintOf(err))
			}
		})
	}
}

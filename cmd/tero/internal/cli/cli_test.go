package cli_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/cmd/tero/internal/cli"
	"tero.internal/cmd/tero/internal/session"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	time.Local = time.UTC // golden files hold local times
	os.Exit(m.Run())
}

// outcome is all that a user sees of a command.
type outcome struct {
	stdout, stderr string
	code           int
}

func (o outcome) String() string {
	return fmt.Sprintf("-- exit code %d\n-- standard output\n%s-- standard error\n%s", o.code, o.stdout, o.stderr)
}

// run runs the CLI against a fake node.
func run(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	s := &session.Session{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		Getenv: func(string) string { return "" }, Now: func() time.Time { return now }, Dial: dialFake(t),
	}
	code := cli.Main(t.Context(), s, args)
	return outcome{stdout: out.String(), stderr: errs.String(), code: code}
}

// TestGolden shows whole outcomes in testdata/golden.
func TestGolden(t *testing.T) {
	for name, args := range map[string]string{
		"ps":              "ps -a",
		"ps-wide":         "ps -a -o wide",
		"ps-json":         "ps -o json",
		"ps-yaml":         "ps -o yaml",
		"ps-name":         "ps -a -o name",
		"ps-format":       "ps --format {{.name}}:{{.endpoint.address}}",
		"ps-format-bad":   "ps --format {{.nam}}",
		"output-unknown":  "ps -o xml",
		"inspect":         "inspect web",
		"inspect-unknown": "inspect nothing",
		"rm":              "rm web nothing web nil",
		"stop":            "stop web",
		"stop-at-once":    "stop -t 0 web",
		"start":           "start web nothing",
		"restart":         "restart -t 3 web",
		"pause":           "pause web",
		"unpause":         "unpause web",
		"update":          "update -o json --memory 256MiB --restart always web",
		"status":          "status",
		"down":            "down",
		"events":          "events",
		"events-json":     "events -o json",
		"image-ls":        "image ls",
		"image-inspect":   "image inspect web",
		"image-rm":        "image rm web other",
		"network-ls":      "network ls -o wide",
		"volume-create":   "volume create -l tier=db new",
		"volume-ls":       "volume ls -o wide",
		"volume-inspect":  "volume inspect data",
		"volume-unknown":  "volume inspect nothing",
		"volume-rm":       "volume rm data old",
		"volume-prune":    "volume prune",
		"volume-none":     "volume prune -l tier=db",
		"segment-ls":      "segment ls",
		"flows":           "flows",
		"flows-follow":    "flows -f",
		"policy-ls":       "policy ls",
		"policy-why":      "policy why",
		"policy-test":     "policy test rogue",
		"plugin-ls":       "plugin ls",
		"identity-ls":     "identity ls",
		"run-detached":    "run -d web",
		"run-json":        "run -d -o name web",
		"run-refused":     "run rogue",
		"run-exit":        "run web fail",
		"run-gone":        "run web gone",
		"exec":            "exec web true",
		"logs":            "logs --timestamps web",
		"config":          "config --socket /tmp/s",
		"usage-args":      "run",
		"usage-flag":      "ps --al",
		"usage-command":   "runn",
		"usage-group":     "image lss",
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, "", strings.Fields(args)...).String()
			file := filepath.Join("testdata", "golden", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("tero %s (-want +got):\n%s", args, d)
			}
		})
	}
}

func TestRunEchoesStandardInput(t *testing.T) {
	input := strings.Repeat("a line of input\n", 10_000)
	got := run(t, input, "run", "-i", "--rm", "web")
	if got.code != 0 || got.stdout != input || got.stderr != "" {
		t.Errorf("exit code %d, %d bytes of %d, standard error %q", got.code, len(got.stdout), len(input), got.stderr)
	}
}

func TestTerminalNeedsATerminal(t *testing.T) {
	got := run(t, "", "run", "-it", "web")
	if got.code != 125 || !strings.Contains(got.stderr, "no terminal") {
		t.Errorf("%s", got)
	}
}

func TestSpecOfFlags(t *testing.T) {
	got := run(t, "", "run", "-d", "--format", "{{json .container.spec}}", "--name", "w", "-e", "A=1", "-l", "app=web", "--entrypoint", "/bin/x",
		"-w", "/srv", "-u", "1000:1000", "--hostname", "h", "--cpus", "0.25", "--memory", "64MiB", "--pids-limit", "7", "--network", "none",
		"--cap-add", "net_raw", "--writable", "--min-level", "L1", "--stop-signal", "int",
		"--security-opt", "apparmor=unconfined", "--security-opt", "landlock=off", "--security-opt", "label=type:t", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", "--rm",
		"--restart", "on-failure:3", "--stop-timeout", "7", "--health-cmd", `["/check","-v"]`, "--health-interval", "1500ms", "--health-retries", "2",
		"--health-start-period", "1m", "--health-on-failure", "kill", "web", "-x", "--name")
	want := `{"apparmor":"unconfined","args":["-x","--name"],"autoRemove":true,"capAdd":["CAP_NET_RAW"],"entrypoint":["/bin/x"],"env":["A=1"],"health":{"command":["/check","-v"],"disabled":false,"interval":"1.500s","onFailure":"kill","retries":2,"startPeriod":"60s"},"hostname":"h","image":"web",` +
		`"labels":{"app":"web"},"logMaxBytes":"1048576","logMaxFiles":2,"memoryBytes":"67108864","milliCpu":"250","minLevel":"L1","name":"w","network":"none","noLandlock":true,"pids":"7",` +
		`"restart":"on-failure:3","selinux":"system_u:system_r:t:s0","stopSignal":"SIGINT","stopTimeoutSeconds":7,"user":"1000:1000","workingDir":"/srv","writableRootfs":true}`
	if d := cmp.Diff(want, said(t, got.stdout)); d != "" || got.code != 0 {
		t.Errorf("(-want +got):\n%s\n%s", d, got)
	}
}

// said gives the fields of a JSON object that say something.
func said(t *testing.T, object string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		t.Fatalf("%v: %s", err, object)
	}
	for k, v := range fields {
		switch v := v.(type) {
		case []any:
			if len(v) > 0 {
				continue
			}
		case map[string]any:
			if len(v) > 0 {
				continue
			}
		default:
			if v != false && v != "" && v != "0" && v != 0.0 {
				continue
			}
		}
		delete(fields, k)
	}
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGrantsOfFlags(t *testing.T) {
	got := run(t, "", "run", "-d", "--format", "{{json .container.spec}}", "--network", "none", "--pids-limit", "7", "--min-level", "L0", "--name", "w",
		"-v", "/srv:/data:ro", "--mount", "type=volume,source=data,target=/v", "--tmpfs", "/t:size=1m,mode=700", "--device", "/dev/fuse",
		"--ulimit", "nofile=10:20", "--sysctl", "net.core.somaxconn=9", "--shm-size", "1m", "-c", "512", "--cpuset-cpus", "0-1",
		"--memory-reservation", "32m", "-m", "64m", "--memory-swap", "-1", "--blkio-weight", "50", "--device-read-bps", "/dev/vda:1m", "--read-only", "web")
	want := `{"cpuSet":"0-1","cpuShares":"512","devices":[{"access":"rw","source":"/dev/fuse","target":"/dev/fuse"}],"image":"web",` +
		`"ioLimits":[{"device":"/dev/vda","readBps":"1048576","readIops":"0","writeBps":"0","writeIops":"0"}],"ioWeight":"50","memoryBytes":"67108864",` +
		`"memoryReservationBytes":"33554432","memorySwapBytes":"-1","minLevel":"L0","mounts":[` +
		`{"exec":false,"mode":0,"readOnly":true,"sizeBytes":"0","source":"/srv","target":"/data","type":"TYPE_BIND"},` +
		`{"exec":false,"mode":0,"readOnly":false,"sizeBytes":"0","source":"data","target":"/v","type":"TYPE_VOLUME"},` +
		`{"exec":false,"mode":448,"readOnly":false,"sizeBytes":"1048576","source":"","target":"/t","type":"TYPE_TMPFS"}],"name":"w","network":"none",` +
		`"pids":"7","shmBytes":"1048576","sysctls":{"net.core.somaxconn":"9"},"ulimits":[{"hard":"20","name":"nofile","soft":"10"}]}`
	if d := cmp.Diff(want, said(t, got.stdout)); d != "" || got.code != 0 {
		t.Errorf("(-want +got):\n%s\n%s", d, got)
	}
}

func TestBadFlagValues(t *testing.T) {
	for name, c := range map[string]struct{ args, want string }{
		"log size":    {"run --log-opt max-size=x web", `--log-opt max-size: "x" is not a size`},
		"log files":   {"run --log-opt max-file=0 web", `--log-opt max-file: "0" is not a number`},
		"log option":  {"run --log-opt mode=x web", `--log-opt "mode=x" is not known`},
		"since":       {"logs --since noon web", `--since "noon" is neither a time nor a duration`},
		"cpus":        {"run --cpus many web", `--cpus "many" is not a number of cores`},
		"cpus zero":   {"run --cpus 0 web", `--cpus "0"`},
		"cpus nan":    {"run --cpus NaN web", `--cpus "NaN"`},
		"memory":      {"run -m lots web", `--memory "lots"`},
		"volume":      {"run -v /data web", `--volume "/data"`},
		"mount":       {"run --mount type=nfs,target=/x web", `type "nfs"`},
		"device":      {"run --device /dev/x:q web", `access "q"`},
		"ulimit":      {"run --ulimit files=1 web", `--ulimit "files=1"`},
		"sysctl":      {"run --sysctl a web", `--sysctl "a" is not KEY=value`},
		"rate":        {"run --device-read-bps /dev/vda web", `is not DEVICE:RATE`},
		"read-only":   {"run --read-only --writable web", "exclude each other"},
		"health":      {"run --health-cmd [x web", `--health-cmd "[x"`},
		"no change":   {"update web", "nothing to change"},
		"new memory":  {"update -m lots web", `--memory "lots"`},
		"label":       {"run -l app web", `--label "app" is not KEY=value`},
		"env":         {"run -e =x web", `--env "=x"`},
		"nonce":       {"attest --nonce xyz", `--nonce "xyz"`},
		"policy both": {"policy apply --defaults x", "either files or --defaults"},
		"no segment":  {"segment apply", "no file given"},
		"no file":     {"segment apply /nonexistent", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, "", strings.Fields(c.args)...)
			if !strings.Contains(got.stderr, c.want) || got.code == 0 || strings.Contains(got.stderr, "fault.") {
				t.Errorf("want %q in:\n%s", c.want, got)
			}
		})
	}
}

func TestImport(t *testing.T) {
	big := strings.Repeat("x", 3<<20+17)
	got := run(t, big, "image", "import", "-", "--format", "{{.sizeBytes}}")
	if got.code != 0 || got.stdout != fmt.Sprintln(len(big)) {
		t.Errorf("%s", got)
	}
	got = run(t, big, "image", "import", "-", "--name", "corrupt")
	if got.code != 125 || !strings.Contains(got.stderr, "layer sha256:11 has other bytes") {
		t.Errorf("a refusal in mid-upload: %s", got)
	}
}

func TestAttestWritesAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "evidence.json")
	if got := run(t, "", "attest", "--nonce", "6162", "-f", file); got.code != 0 {
		t.Fatalf("%s", got)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != `{"nonce":"ab"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(content string) {
		if err := os.WriteFile(filepath.Join(dir, "base.cedar"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good")
	if got := run(t, "", "policy", "check", dir); got.code != 0 || got.stdout != "1 policies, no problems: sha256:dd\n" {
		t.Errorf("%s", got)
	}
	write("bad")
	got := run(t, "", "policy", "check", dir)
	if got.code != 125 || !strings.HasPrefix(got.stdout, "base.cedar:2:5: unknown attribute") {
		t.Errorf("%s", got)
	}
}

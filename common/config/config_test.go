package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/config"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

type network struct {
	Pool   netip.Prefix `yaml:"pool" help:"addresses for containers"`
	DNS    []netip.Addr `yaml:"dns" help:"name servers that questions for other zones go to"`
	DNSTTL uint16       `yaml:"dnsTTL" help:"seconds that an answer holds"`
}

type settings struct {
	StateDir string            `yaml:"stateDir" help:"folder for what must survive a restart" required:"true"`
	LogLevel string            `yaml:"logLevel" help:"least severity that is logged" enum:"debug,info,warn,error"`
	Grace    time.Duration     `yaml:"stopGrace" help:"time between SIGTERM and SIGKILL"`
	Verify   bool              `yaml:"verify" help:"refuse images without a trusted signature"`
	LogSize  config.Size       `yaml:"logSize" help:"size at which a log file is rotated"`
	MinLevel workload.Level    `yaml:"minLevel" help:"least assurance level of the node"`
	TPM      string            `yaml:"tpmSocket" env:"TPM" help:"socket of a TPM simulator"`
	Token    string            `yaml:"token" secret:"true" help:"token for the console"`
	Labels   map[string]string `yaml:"labels" help:"labels of the node"`
	Network  network           `yaml:"network" help:"the container network"`
}

func (s *settings) Validate() error {
	var errs []error
	if s.Grace < 0 {
		errs = append(errs, config.Wrong("stopGrace", "%s is negative", s.Grace))
	}
	if s.Network.Pool.Bits() > 30 {
		errs = append(errs, config.Wrong("network.pool", "%s is too small", s.Network.Pool))
	}
	return errors.Join(errs...)
}

func defaults() *settings {
	return &settings{
		LogLevel: "info", Grace: 10 * time.Second, Verify: true, LogSize: 10 << 20,
		Labels:  map[string]string{"zone": "a"},
		Network: network{Pool: netip.MustParsePrefix("10.88.0.0/16"), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}},
	}
}

// TestGolden loads each testdata/*.yaml; the wanted outcome is the .want file beside it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s := defaults()
			s.StateDir = "/var/lib/tero"
			var got string
			loaded, err := config.Load(s, config.Source{File: file, EnvPrefix: "TERO_"})
			if err != nil {
				got = fmt.Sprintf("error %s\n%s\n", fault.KindOf(err), err)
			} else {
				for _, v := range loaded.Settings {
					got += fmt.Sprintf("%s=%s (%s %s)\n", v.Name, v.Value, v.Origin.From, v.Origin.Where)
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".want"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("stateDir: /file\nstopGrace: 1s\nlogLevel: warn\nverify: false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := defaults()
	loaded, err := config.Load(s, config.Source{
		File: file, EnvPrefix: "TERO_", EnvKnown: []string{"TERO_HOST", "TERO_BENCH_*"},
		Environ: []string{"TERO_STOP_GRACE=2s", "TERO_LOG_LEVEL=error", "TERO_TPM=/run/swtpm", "TERO_HOST=unix:///x", "TERO_BENCH_N=3", "HOME=/root", "TERO_NETWORK_DNS=1.1.1.1, 8.8.8.8"},
		Flags:   map[string]string{"stopGrace": "3s", "labels": "a=1,b=2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.StateDir, want.Grace, want.LogLevel, want.Verify, want.TPM = "/file", 3*time.Second, "error", false, "/run/swtpm"
	want.Labels = map[string]string{"a": "1", "b": "2"}
	want.Network.DNS = []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")}
	if diff := cmp.Diff(want, s, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for key, want := range map[string]config.Origin{
		"stateDir":     {From: config.FromFile, Where: file + ":1:11"},
		"logLevel":     {From: config.FromEnvironment, Where: "environment variable TERO_LOG_LEVEL"},
		"stopGrace":    {From: config.FromFlag, Where: "flag --stop-grace"},
		"network.pool": {From: config.FromDefault},
	} {
		if got := loaded.Origin(key); got != want {
			t.Errorf("%s: origin %+v, want %+v", key, got, want)
		}
	}
}

func TestErrorsNameTheSource(t *testing.T) {
	for _, c := range []struct {
		name string
		src  config.Source
		want []string
	}{
		{"unknown variable", config.Source{EnvPrefix: "TERO_", Environ: []string{"TERO_STATEDIR=/x"}}, []string{`environment variable TERO_STATEDIR: no setting has this name; did you mean "TERO_STATE_DIR"?`}},
		{"bad variable", config.Source{EnvPrefix: "TERO_", Environ: []string{"TERO_STOP_GRACE=ten"}}, []string{`environment variable TERO_STOP_GRACE: stopGrace: "ten" is not a duration`}},
		{"bad flag", config.Source{Flags: map[string]string{"verify": "yes"}}, []string{`flag --verify: verify: "yes" is neither true nor false`}},
		{"unknown flag", config.Source{Flags: map[string]string{"verfy": "true"}}, []string{`flag --verfy: no setting is called "verfy"; did you mean "verify"?`}},
		{"enum", config.Source{Flags: map[string]string{"logLevel": "wran"}}, []string{`"wran" is not one of debug, info, warn, error; did you mean "warn"?`}},
		{"validated", config.Source{Flags: map[string]string{"stopGrace": "-1s", "network.pool": "10.0.0.0/31"}}, []string{"flag --stop-grace: stopGrace: -1s is negative", "flag --network-pool: network.pool: 10.0.0.0/31 is too small"}},
		{"all at once", config.Source{EnvPrefix: "TERO_", Environ: []string{"TERO_VERIFY=1", "TERO_FOO=1"}, Flags: map[string]string{"minLevel": "L9"}}, []string{"TERO_VERIFY", "TERO_FOO", "flag --min-level: minLevel: assurance level"}},
		{"level", config.Source{Flags: map[string]string{"network.dnsTTL": "70000"}}, []string{"flag --network-dns-ttl: network.dnsTTL: \"70000\" is not a whole number from 0 of 16 bits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := defaults()
			s.StateDir = "/x"
			_, err := config.Load(s, c.src)
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("error %v is not invalid", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not hold %q", err, w)
				}
			}
			want := defaults()
			want.StateDir = "/x"
			if fmt.Sprint(s) != fmt.Sprint(want) {
				t.Errorf("a failed load changed the struct: %+v", s)
			}
		})
	}
}

func TestRequiredAndMissingFile(t *testing.T) {
	_, err := config.Load(defaults(), config.Source{EnvPrefix: "TERO_", Help: "see the manual"})
	if err == nil || !strings.Contains(err.Error(), "stateDir: must be set: by flag --state-dir, environment variable TERO_STATE_DIR or in the file") || fault.HintOf(err) != "see the manual" {
		t.Errorf("required: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := config.Load(defaults(), config.Source{File: missing}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("missing file: %v", err)
	}
	if _, err := config.Load(defaults(), config.Source{File: missing, Optional: true, Flags: map[string]string{"stateDir": "/x"}}); err != nil {
		t.Errorf("optional file: %v", err)
	}
	if _, err := config.Load(defaults(), config.Source{File: t.TempDir()}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("folder: %v", err)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	s := defaults()
	s.StateDir, s.Token = "/x", "default-token"
	loaded, err := config.Load(s, config.Source{Flags: map[string]string{"token": "hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := config.Describe(&b, s, "TERO_"); err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", loaded) + b.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "default-token") {
		t.Errorf("the secret is shown: %s", text)
	}
	if s.Token != "hunter2" {
		t.Errorf("token %q", s.Token)
	}
}

func TestDescribeLoadsBack(t *testing.T) {
	s := defaults()
	s.StateDir = "/var/lib/tero: \"x\""
	var b strings.Builder
	if err := config.Describe(&b, s, "TERO_"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var back settings
	if _, err := config.Load(&back, config.Source{File: file}); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if fmt.Sprint(back) != fmt.Sprint(*s) {
		t.Errorf("got %+v, want %+v", back, *s)
	}
}

func TestMistakesOfTheProgrammer(t *testing.T) {
	for name, dst := range map[string]any{
		"no pointer": settings{},
		"no help": &struct {
			A string `yaml:"a"`
		}{},
		"no tag": &struct{ A string }{},
		"same variable": &struct {
			A string `yaml:"aB" help:"a"`
			B string `yaml:"a_b" help:"b"`
		}{},
		"unsupported": &struct {
			A func() `yaml:"a" help:"a"`
		}{},
	} {
		if _, err := config.Load(dst, config.Source{EnvPrefix: "T_"}); err == nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]config.Size{"0": 0, "4096": 4096, "64M": 64 << 20, "1.5GiB": 3 << 29, "10MB": 1e7, "1T": 1 << 40, "7B": 7} {
		if got, err := config.ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "-1", "1X", "1 M", "9223372036854775807K", "1e9", "1.2.3", "iB", "99999999999999999999"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	for _, s := range []config.Size{0, 1, 1024, 3 << 29, 10 << 20, 1<<40 + 1, -1 << 20} {
		if s >= 0 {
			if back, err := config.ParseSize(s.String()); err != nil || back != s {
				t.Errorf("%d -> %s -> %d, %v", s, s, back, err)
			}
		}
	}
}

func FuzzLoadFile(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := defaults()
		if _, err := config.Load(s, config.Source{File: file}); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v", err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	f.Add("64M")
	f.Add("1.5GiB")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := config.ParseSize(text)
		if err != nil {
			return
		}
		if back, err := config.ParseSize(s.String()); err != nil || back != s || s < 0 {
			t.Errorf("%q -> %d -> %s -> %d, %v", text, s, s, back, err)
		}
	})
}

package host_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/host"
	. "tero.internal/plugin-manager/internal/wasmtest"
	"tero.internal/plugin-manager/plugintest"
)

func key(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// unsign takes all but the tagged manifest out of the index.
func unsign(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, "index.json")
	var index struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(plugintest.Read(t, file), &index); err != nil {
		t.Fatal(err)
	}
	all := index.Manifests
	index.Manifests = nil
	for _, m := range all {
		if bytes.Contains(m, []byte("ref.name")) {
			index.Manifests = append(index.Manifests, m)
		}
	}
	b, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tamper changes the last byte but one of the blobs that begin with prefix.
func tamper(t *testing.T, dir, prefix string) {
	t.Helper()
	done := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b := plugintest.Read(t, path)
		if !bytes.HasPrefix(b, []byte(prefix)) || filepath.Base(path) == "index.json" {
			return nil
		}
		b[len(b)-2] ^= 1
		done++
		return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600))
	})
	if err != nil || done != 1 {
		t.Fatalf("%d blobs changed, error %v", done, err)
	}
}

// mutator is a manifest of a plugin that writes.
func mutator(name string, set map[string]json.RawMessage, after ...string) []byte {
	return manifest(name, func(m *pluginpkg.Manifest) {
		var writes []string
		for w := range set {
			writes = append(writes, w)
		}
		m.Hooks = []pluginpkg.Hook{{Point: pluginpkg.PointMutate, Writes: writes, Order: pluginpkg.Order{After: after}}}
		m.Vectors[0].Want.Set = set
	})
}

func TestMutateThenValidate(t *testing.T) {
	h := plugintest.New(t)
	label := map[string]json.RawMessage{"/labels/a~1b": json.RawMessage(`"x"`)}
	pids := map[string]json.RawMessage{"/resources/pids": json.RawMessage("7")}
	h.Install(t, mutator("aaa", label, "zzz"), Guest{Answer: Set(Allow(), "/labels/a~1b", ` "x"`)}.Bytes(), "")
	h.Install(t, mutator("zzz", pids), Guest{Answer: Set(Allow(), "/resources/pids", "7")}.Bytes(), "")
	h.Install(t, manifest("mmm"), Guest{Answer: Allow()}.Bytes(), "")

	in := workload.Spec{Name: "web", Image: "localhost/web:v1", Labels: map[string]string{"k": "v"}}
	out, verdicts, err := h.Admit(t, in, img)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"k": "v", "a/b": "x"}, out.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if out.Resources.Pids != 7 {
		t.Errorf("pids = %d, want 7", out.Resources.Pids)
	}
	if diff := cmp.Diff(map[string]string{"k": "v"}, in.Labels); diff != "" {
		t.Errorf("the caller's labels changed (-want +got):\n%s", diff)
	}
	var got []string
	for _, v := range verdicts {
		got = append(got, v.Plugin+" "+strings.Join(v.Changed, ","))
		if v.Ticks == 0 || v.Digest == "" {
			t.Errorf("verdict %+v lacks ticks or digest", v)
		}
	}
	if diff := cmp.Diff([]string{"zzz /resources/pids", "aaa /labels/a~1b", "mmm "}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestDenialNamesPluginCodeAndReason(t *testing.T) {
	h := plugintest.New(t)
	sub := h.Config.Bus.Subscribe()
	defer sub.Close()
	h.Install(t, manifest("no", func(m *pluginpkg.Manifest) { m.Vectors[0].Want = pluginpkg.Want{Code: "x.y"} }),
		Guest{Answer: Deny("x.y", "not\nhere\x1b[1m")}.Bytes(), "")
	_, _, err := h.Admit(t, web, img)
	wantDenied(t, err, `launch of "web" refused by plugin no: not here [1m (x.y)`)
	for want := []string{"plugin.installed", "plugin.denied"}; len(want) > 0; want = want[1:] {
		if e, _, err := sub.Next(t.Context()); err != nil || e.Type != want[0] || e.Attributes["plugin"] != "no" {
			t.Errorf("event %+v, %v; want %s", e, err, want[0])
		}
	}
}

func TestOverlapsAndCycles(t *testing.T) {
	h := plugintest.New(t)
	tier := map[string]json.RawMessage{"/labels/tier": json.RawMessage(`"x"`)}
	guest := Guest{Answer: Set(Allow(), "/labels/tier", `"x"`)}.Bytes()
	h.Install(t, mutator("one", tier, "three"), guest, "")
	_, err := h.TryInstall(t, plugintest.Pack(t, manifest("two", func(m *pluginpkg.Manifest) {
		m.Hooks = []pluginpkg.Hook{{Point: pluginpkg.PointMutate, Writes: []string{"/labels/*"}}}
	}), Guest{Answer: Allow()}.Bytes(), h.Key), host.Decision{})
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "plugins one and two may both write") {
		t.Errorf("overlap: %v", err)
	}
	_, err = h.TryInstall(t, plugintest.Pack(t, manifest("three", func(m *pluginpkg.Manifest) {
		m.Hooks = []pluginpkg.Hook{{Point: pluginpkg.PointMutate, Order: pluginpkg.Order{After: []string{"one"}}}}
	}), Guest{Answer: Allow()}.Bytes(), h.Key), host.Decision{})
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "one, three") {
		t.Errorf("cycle: %v", err)
	}
	if n := len(h.Host.List()); n != 1 {
		t.Errorf("%d plugins installed, want 1", n)
	}
	_, err = h.TryInstall(t, plugintest.Pack(t, mutator("one", tier), guest, h.Key), host.Decision{})
	if fault.KindOf(err) != fault.Exists {
		t.Errorf("a second of the name: %v", err)
	}
}

func TestGrants(t *testing.T) {
	h := plugintest.New(t)
	g := Guest{Answer: Allow(), Imports: []Import{LogImport()}}
	needsLog := manifest("p", func(m *pluginpkg.Manifest) { m.Capabilities.Required = []string{"log"} })
	info, err := h.TryInstall(t, plugintest.Pack(t, needsLog, g.Bytes(), h.Key), host.Decision{})
	if err != nil || info.State != host.PendingGrant || !strings.Contains(info.Reason, "log") {
		t.Fatalf("%+v, %v; want it to wait for the grant", info, err)
	}
	admitted := func(want int) {
		t.Helper()
		if _, v, err := h.Admit(t, web, img); err != nil || len(v) != want {
			t.Errorf("verdicts %v, error %v; want %d", v, err, want)
		}
	}
	admitted(0)
	if info, err = h.Host.Grant(t.Context(), "p", host.Decision{GrantRequired: true}); err != nil || info.State != host.Active {
		t.Fatalf("%+v, %v; want active", info, err)
	}
	admitted(1)
	h.Close(t)
	h.Open(t)
	admitted(1)
	if info, err = h.Host.Grant(t.Context(), "p", host.Decision{}); err != nil || info.State != host.PendingGrant {
		t.Fatalf("%+v, %v; want it to wait again", info, err)
	}
	admitted(0)
	if _, err := h.Host.Grant(t.Context(), "q", host.Decision{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("grant for an unknown plugin: %v", err)
	}
}

func TestRestart(t *testing.T) {
	h := plugintest.New(t)
	before := h.Install(t, manifest("p"), Guest{Answer: Allow()}.Bytes(), `{"k":"v"}`)
	h.Close(t)
	// What a crash may leave is cleaned up.
	if err := os.Mkdir(filepath.Join(h.Config.StateDir, "packages", ".incoming-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.Open(t)
	after := h.Host.List()
	if diff := cmp.Diff([]host.Info{before}, after); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	d, err := h.Host.Inspect("p")
	if err != nil || compact(t, d.Settings) != `{"k":"v"}` || !bytes.Contains(d.ManifestJSON, []byte(pluginpkg.Schema)) {
		t.Errorf("details %+v, %v", d, err)
	}
	left, err := os.ReadDir(filepath.Join(h.Config.StateDir, "packages"))
	if err != nil || len(left) != 1 {
		t.Errorf("packages: %v, %v", left, err)
	}
	if _, err := h.Host.Remove(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if left, err = os.ReadDir(filepath.Join(h.Config.StateDir, "packages")); err != nil || len(left) != 0 {
		t.Errorf("after removal: %v, %v", left, err)
	}
	h.Close(t)
	h.Open(t)
	if got := h.Host.List(); len(got) != 0 {
		t.Errorf("after removal and restart: %+v", got)
	}
}

func compact(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestRestartFailsClosed takes away what an installed plugin needs: no launch
// passes as if it had not been installed.
func TestRestartFailsClosed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, h *plugintest.Harness, pkg string){
		"the key is trusted no more": func(t *testing.T, h *plugintest.Harness, _ string) {
			if err := os.Remove(filepath.Join(h.Config.TrustDir, "test.pub")); err != nil {
				t.Fatal(err)
			}
		},
		"the module was changed": func(t *testing.T, _ *plugintest.Harness, pkg string) { tamper(t, pkg, "\x00asm") },
		"the package is gone": func(t *testing.T, _ *plugintest.Harness, pkg string) {
			if err := os.RemoveAll(pkg); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := plugintest.New(t)
			info := h.Install(t, manifest("p"), Guest{Answer: Allow()}.Bytes(), "")
			h.Close(t)
			spoil(t, h, filepath.Join(h.Config.StateDir, "packages", info.Digest.Encoded()))
			h.Open(t)
			if got := h.Host.List()[0]; got.State != host.Quarantined || got.Reason == "" {
				t.Errorf("%+v, want it quarantined with a reason", got)
			}
			_, _, err := h.Admit(t, web, img)
			wantDenied(t, err, "plugin p is quarantined")
			if _, err := h.Host.Remove(t.Context(), "p"); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.Admit(t, web, img); err != nil {
				t.Errorf("after removal: %v", err)
			}
		})
	}
}

// TestRemoveDuringCalls loses no launch: each gets the plugin's word, or the
// plugin was gone when it began.
func TestRemoveDuringCalls(t *testing.T) {
	h := plugintest.New(t)
	pkg := plugintest.Pack(t, manifest("p"), Guest{Answer: Allow(), Before: Repeat(1000, nil)}.Bytes(), h.Key)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := h.Admit(t, web, img); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 10 {
		if _, err := h.TryInstall(t, pkg, host.Decision{}); err != nil {
			t.Error(err)
		}
		if _, err := h.Host.Remove(t.Context(), "p"); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestNoPluginsCostNothing(t *testing.T) {
	h := plugintest.New(t)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = h.Host.Admit(t.Context(), web, img) }); n > 0 {
		t.Errorf("%v allocations without plugins", n)
	}
}

func TestClosedHostRefuses(t *testing.T) {
	h := plugintest.New(t)
	pkg := plugintest.Pack(t, manifest("p"), Guest{Answer: Allow()}.Bytes(), h.Key)
	if err := h.Host.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Admit(t, web, img); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Admit: %v", err)
	}
	if _, err := h.TryInstall(t, pkg, host.Decision{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Install: %v", err)
	}
}

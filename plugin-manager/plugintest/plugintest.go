// Package plugintest lets authors run their compiled plugin in the real host,
// from go test:
//
//	func TestInTheHost(t *testing.T) {
//		h := plugintest.New(t)
//		h.Install(t, plugintest.Read(t, "manifest.json"), plugintest.Build(t, "."), `{"tags":["dev"]}`)
//		_, _, err := h.Admit(t, workload.Spec{...}, workload.Image{...})
//	}
//
// The plugin is packed, signed with a key of the test, verified, granted what
// it requires, metered, self-tested and called as on a node.
package plugintest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tero.internal/common/eventbus"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/host"
)

// Harness is a host with a trusted key.
type Harness struct {
	Host *host.Host
	// Config is what the host was opened with, to open it again.
	Config host.Config
	// Key signs packages that the host trusts.
	Key ed25519.PrivateKey
}

// New gives a harness that ends with the test. What plugins log goes to t.
func New(t testing.TB) *Harness {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := &Harness{Key: key, Config: host.Config{
		StateDir: t.TempDir(), TrustDir: t.TempDir(), Bus: &eventbus.Bus{},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	Trust(t, h.Config.TrustDir, "test", public)
	h.Open(t)
	t.Cleanup(func() { h.Close(t) })
	return h
}

// Open opens the host, after Close.
func (h *Harness) Open(t testing.TB) {
	t.Helper()
	var err error
	if h.Host, err = host.Open(t.Context(), h.Config); err != nil {
		t.Fatal(err)
	}
}

// Close closes the host, as a daemon that stops does.
func (h *Harness) Close(t testing.TB) {
	t.Helper()
	if h.Host == nil {
		return
	}
	if err := h.Host.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	h.Host = nil
}

// Trust writes a public key into a trust folder.
func Trust(t testing.TB, dir, name string, key ed25519.PublicKey) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, name+".pub"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Pack makes a package and gives its folder, signed with key unless that is nil.
func Pack(t testing.TB, manifest, wasm []byte, key ed25519.PrivateKey) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "package")
	if _, err := pluginpkg.Pack(t.Context(), dir, manifest, wasm); err != nil {
		t.Fatal(err)
	}
	if key != nil {
		if _, err := pluginpkg.Sign(t.Context(), dir, key); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TryInstall installs the package in a folder.
func (h *Harness) TryInstall(t testing.TB, dir string, d host.Decision) (host.Info, error) {
	t.Helper()
	var tar bytes.Buffer
	if err := pluginpkg.WriteTar(t.Context(), &tar, dir); err != nil {
		t.Fatal(err)
	}
	return h.Host.Install(t.Context(), &tar, d)
}

// Install packs, signs and installs a plugin with all that it requires.
func (h *Harness) Install(t testing.TB, manifest, wasm []byte, settings string) host.Info {
	t.Helper()
	info, err := h.TryInstall(t, Pack(t, manifest, wasm, h.Key), host.Decision{Settings: json.RawMessage(settings), GrantRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// Admit lets the installed plugins judge a launch, completed from the image as
// the launch pipeline does it.
func (h *Harness) Admit(t testing.TB, spec workload.Spec, image workload.Image) (workload.Spec, []workload.PluginVerdict, error) {
	t.Helper()
	if spec.Network == "" {
		spec.Network = workload.NetworkDefault
	}
	if len(spec.Args) == 0 && len(image.Config.Entrypoint) == 0 && len(image.Config.Cmd) == 0 {
		image.Config.Cmd = []string{"/main"}
	}
	spec, err := spec.Complete(image)
	if err != nil {
		t.Fatal(err)
	}
	return h.Host.Admit(t.Context(), spec, image)
}

// Build compiles the Go plugin in a folder.
func Build(t testing.TB, dir string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "plugin.wasm")
	c := exec.CommandContext(t.Context(), "go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s", "-o", out, ".") //nolint:gosec // the author's own test
	c.Dir = dir
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin in %s: %v\n%s", dir, err, b)
	}
	return Read(t, out)
}

// Read gives a file's content.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path) //nolint:gosec // the author's own test
	if err != nil {
		t.Fatal(err)
	}
	return b
}

package ocilayout_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

// tree writes a small root filesystem.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"app": "#!/bin/sh\n", "etc/motd": "hello\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../app", filepath.Join(dir, "etc", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func build(t *testing.T, source, layout string) ocilayout.Built {
	t.Helper()
	b, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{
		Source: source, Layout: layout, Reference: "web:v1", Entrypoint: []string{"/app"},
		Env: []string{"A=b"}, ExposedPorts: []string{"8080"}, Labels: map[string]string{"x": "y"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBuildIsReproducible(t *testing.T) {
	source := tree(t)
	a := build(t, source, filepath.Join(t.TempDir(), "a"))
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(source, "app"), later, later); err != nil {
		t.Fatal(err)
	}
	b := build(t, source, filepath.Join(t.TempDir(), "b"))
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("same content, different image (-first +second):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(source, "app"), []byte("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if c := build(t, source, filepath.Join(t.TempDir(), "c")); c.Manifest.Digest == a.Manifest.Digest {
		t.Error("other content, same image")
	}
}

func TestBuildWritesWhatWasAsked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	b := build(t, tree(t), dir)
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.ReadBlob(b.Config)
	if err != nil {
		t.Fatal(err)
	}
	var img v1.Image
	if err := json.Unmarshal(raw, &img); err != nil {
		t.Fatal(err)
	}
	want := v1.ImageConfig{
		Entrypoint: []string{"/app"}, Env: []string{"A=b"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Labels: map[string]string{"x": "y"},
	}
	if diff := cmp.Diff(want, img.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if img.RootFS.DiffIDs[0] != b.Layer.Digest {
		t.Error("the diff id of an uncompressed layer is not its digest")
	}
	layer, err := l.ReadBlob(b.Layer)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]byte{}
	for tr := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h.Typeflag
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
	}
	if diff := cmp.Diff(map[string]byte{"./": tar.TypeDir, "app": tar.TypeReg, "etc/": tar.TypeDir, "etc/link": tar.TypeSymlink, "etc/motd": tar.TypeReg}, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestBuildFromOneFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	b, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{Source: filepath.Join(tree(t), "app"), Layout: dir, Reference: "app"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.ReadBlob(b.Config)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"Entrypoint":["/app"]`) {
		t.Errorf("configuration %s has no entrypoint /app", raw)
	}
}

func TestBuildRefuses(t *testing.T) {
	source := tree(t)
	white := tree(t)
	if err := os.WriteFile(filepath.Join(white, ".wh.app"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    ocilayout.BuildOptions
		kind fault.Kind
	}{
		"no source":     {ocilayout.BuildOptions{Source: source + "x", Reference: "a"}, fault.NotFound},
		"bad reference": {ocilayout.BuildOptions{Source: source, Reference: "A"}, fault.Invalid},
		"digest":        {ocilayout.BuildOptions{Source: source, Reference: "a@sha256:" + hex64}, fault.Invalid},
		"port":          {ocilayout.BuildOptions{Source: source, Reference: "a", ExposedPorts: []string{"http"}}, fault.Invalid},
		"env":           {ocilayout.BuildOptions{Source: source, Reference: "a", Env: []string{"=x"}}, fault.Invalid},
		"workdir":       {ocilayout.BuildOptions{Source: source, Reference: "a", WorkingDir: "x"}, fault.Invalid},
		"whiteout":      {ocilayout.BuildOptions{Source: white, Reference: "a"}, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Layout = filepath.Join(t.TempDir(), "layout")
			if _, err := ocilayout.Build(t.Context(), c.o); fault.KindOf(err) != c.kind {
				t.Errorf("error %v is of kind %s, want %s", err, fault.KindOf(err), c.kind)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := ocilayout.BuildOptions{Source: source, Reference: "a", Layout: filepath.Join(t.TempDir(), "l")}
	if _, err := ocilayout.Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	for in, want := range map[string]time.Time{"": {}, "0": time.Unix(0, 0).UTC(), "1700000000": time.Unix(1700000000, 0).UTC()} {
		t.Setenv("SOURCE_DATE_EPOCH", in)
		if got, err := ocilayout.SourceDateEpoch(); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "1x", "-1", "1.5", " 1"} {
		t.Setenv("SOURCE_DATE_EPOCH", in)
		if _, err := ocilayout.SourceDateEpoch(); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestKeysRoundTrip(t *testing.T) {
	k, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	for name, password := range map[string][]byte{"plain": nil, "encrypted": []byte("secret")} {
		t.Run(name, func(t *testing.T) {
			b, err := k.MarshalPEM(password)
			if err != nil {
				t.Fatal(err)
			}
			back, err := ocilayout.ParsePrivateKey("cosign.key", b, password)
			if err != nil {
				t.Fatal(err)
			}
			if p, err := back.Public(); err != nil || p.ID() != pub.ID() {
				t.Errorf("key %v (%v), want %v", p, err, pub.ID())
			}
			if _, err := ocilayout.ParsePrivateKey("cosign.key", b, []byte("wrong")); password != nil && fault.KindOf(err) != fault.Denied {
				t.Errorf("with a wrong password: %v", err)
			}
		})
	}
	b, err := pub.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ocilayout.ParsePublicKey("cosign.pub", b); err != nil || back.ID() != pub.ID() {
		t.Errorf("public key %v, %v", back, err)
	}
	for _, bad := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"} {
		if _, err := ocilayout.ParsePublicKey("bad", []byte(bad)); fault.KindOf(err) == fault.Internal {
			t.Errorf("public %q: %v", bad, err)
		}
		if _, err := ocilayout.ParsePrivateKey("bad", []byte(bad), nil); fault.KindOf(err) == fault.Internal {
			t.Errorf("private %q: %v", bad, err)
		}
	}
}

func TestSignAsCosignDoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	b := build(t, tree(t), dir)
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var keys []*ocilayout.PublicKey
	for range 2 {
		k, err := ocilayout.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Sign("web:v1", k); err != nil {
			t.Fatal(err)
		}
		pub, err := k.Public()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, pub)
	}
	sigs, err := l.Signatures(b.Manifest.Digest)
	if err != nil || len(sigs) != 2 {
		t.Fatalf("%d signatures, %v; want 2", len(sigs), err)
	}
	for i, s := range sigs {
		want := `{"critical":{"identity":{"docker-reference":"localhost/web"},"image":{"docker-manifest-digest":"` + string(b.Manifest.Digest) +
			`"},"type":"cosign container image signature"},"optional":null}`
		if diff := cmp.Diff(want, string(s.Payload)); diff != "" {
			t.Errorf("payload (-want +got):\n%s", diff)
		}
		if !keys[i].Verify(s) || keys[1-i].Verify(s) {
			t.Errorf("signature %d: by its key %v, by the other %v", i, keys[i].Verify(s), keys[1-i].Verify(s))
		}
		s.Payload = append(s.Payload, ' ')
		if keys[i].Verify(s) {
			t.Error("a changed payload verifies")
		}
	}
	idx, err := l.Index()
	if err != nil {
		t.Fatal(err)
	}
	tag := "sha256-" + b.Manifest.Digest.Encoded() + ".sig"
	if !slices.ContainsFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == tag }) {
		t.Errorf("no tag %s in %v", tag, idx.Manifests)
	}
	if d, err := l.Find("localhost/web:v1"); err != nil || d.Digest != b.Manifest.Digest {
		t.Errorf("Find after signing: %v, %v", d, err)
	}
	if _, err := l.Find("other"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Find of another name: %v", err)
	}
}

func TestWriteTarHoldsWhatTheIndexLeadsTo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	source := tree(t)
	old := build(t, source, dir)
	if err := os.WriteFile(filepath.Join(source, "app"), []byte("newer"), 0o755); err != nil {
		t.Fatal(err)
	}
	now := build(t, source, dir)
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := errors.Join(l.WriteTar(t.Context(), &a), l.WriteTar(t.Context(), &b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two streams differ")
	}
	names := map[string]bool{}
	for tr := tar.NewReader(&a); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name] = true
	}
	blob := func(d v1.Descriptor) string { return "blobs/sha256/" + d.Digest.Encoded() }
	want := map[string]bool{"oci-layout": true, "index.json": true, "blobs/": true, "blobs/sha256/": true, blob(now.Manifest): true, blob(now.Config): true, blob(now.Layer): true}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(names))); diff != "" {
		t.Errorf("tar (-want +got), old layer %s:\n%s", old.Layer.Digest, diff)
	}
}

func TestOpenWithoutLayout(t *testing.T) {
	if _, err := ocilayout.Open(t.TempDir()); fault.KindOf(err) != fault.NotFound || fault.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, fault.HintOf(err))
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add([]byte(`{"critical":{"identity":{"docker-reference":"a"},"image":{"docker-manifest-digest":"sha256:` + hex64 + `"},"type":"cosign container image signature"},"optional":null}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"critical":null} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ocilayout.ParseClaim(b)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%v is not invalid", err)
			}
			return
		}
		if c.Digest.Validate() != nil || !json.Valid(b) {
			t.Fatalf("%q gives %v", b, c)
		}
	})
}

func FuzzParsePrivateKey(f *testing.F) {
	k, err := ocilayout.GenerateKey()
	if err != nil {
		f.Fatal(err)
	}
	b, err := k.MarshalPEM(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ocilayout.ParsePrivateKey("k", b, []byte("p")); err != nil && fault.KindOf(err) == fault.Internal {
			t.Fatalf("%v has no kind", err)
		}
	})
}

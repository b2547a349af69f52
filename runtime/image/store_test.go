package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/imagetest"
)

func TestImportAndResolve(t *testing.T) {
	one := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	for name, l := range map[string]imagetest.Layer{
		"plain":  imagetest.PlainLayer(one),
		"gzip":   imagetest.NewLayer(v1.MediaTypeImageLayerGzip, imagetest.Gzip(t, one), one),
		"zstd":   imagetest.NewLayer(v1.MediaTypeImageLayerZstd, imagetest.Zstd(t, one), one),
		"docker": imagetest.NewLayer("application/vnd.docker.image.rootfs.diff.tar.gzip", imagetest.Gzip(t, one), one),
	} {
		for _, packed := range []func(testing.TB, []byte) []byte{func(_ testing.TB, b []byte) []byte { return b }, imagetest.Gzip, imagetest.Zstd} {
			t.Run(name, func(t *testing.T) {
				s := newStore(t)
				lay := imagetest.NewLayout(t)
				d := lay.Image(func(img *v1.Image, _ *v1.Manifest) {
					img.Config.ExposedPorts = map[string]struct{}{"9/udp": {}, "80/tcp": {}}
					img.Config.Labels = map[string]string{"a": "b"}
				}, l)
				info := s.mustImport(t, packed(t, lay.Name(d, "web:v1").Pack()))
				img, err := s.Resolve(t.Context(), "web:v1")
				if err != nil {
					t.Fatal(err)
				}
				want := workload.Image{
					Reference: "localhost/web:v1", Digest: d.Digest,
					Config: workload.ImageConfig{Entrypoint: []string{"/app"}, Labels: map[string]string{"a": "b"}, ExposedPorts: []string{"80/tcp", "9/udp"}},
				}
				if diff := cmp.Diff(want, img, cmpopts.IgnoreFields(workload.Image{}, "Layers", "Erofs")); diff != "" {
					t.Errorf("image (-want +got):\n%s", diff)
				}
				b, err := os.ReadFile(filepath.Join(img.Layers[0], "app"))
				if err != nil || string(b) != "one" {
					t.Errorf("app holds %q, %v", b, err)
				}
				if info.Digest != d.Digest || info.Reference != "localhost/web:v1" || info.Platform != "linux/"+runtime.GOARCH {
					t.Errorf("info %+v", info)
				}
				again, err := s.Resolve(t.Context(), "web@"+string(d.Digest))
				if err != nil || again.Digest != d.Digest {
					t.Errorf("by digest: %v, %v", again, err)
				}
				if _, err := s.Resolve(t.Context(), "webb@"+string(d.Digest)); fault.KindOf(err) != fault.NotFound {
					t.Errorf("digest of another repository: %v", err)
				}
			})
		}
	}
}

func TestResolveErrors(t *testing.T) {
	s := newStore(t)
	for in, kind := range map[string]fault.Kind{
		"":           fault.Invalid,
		"Web":        fault.Invalid,
		"web:v1:v2":  fault.Invalid,
		"nothing":    fault.NotFound,
		"nothing:v1": fault.NotFound,
		"nothing@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": fault.NotFound,
	} {
		_, err := s.Resolve(t.Context(), in)
		if fault.KindOf(err) != kind || fault.HintOf(err) == "" {
			t.Errorf("%q: %v (%s, hint %q), want kind %s and a hint", in, err, fault.KindOf(err), fault.HintOf(err), kind)
		}
	}
}

// TestDamagedArchives holds archives that are not what they say: each is
// refused with its reason, and nothing of it stays.
func TestDamagedArchives(t *testing.T) {
	one := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	good := func(t *testing.T) *imagetest.Layout {
		l := imagetest.NewLayout(t)
		return l.Name(l.Image(nil, imagetest.PlainLayer(one)), "web:v1")
	}
	layerName := "blobs/sha256/" + digest.FromBytes(one).Encoded()
	with := func(t *testing.T, change func(*v1.Image, *v1.Manifest), layers ...imagetest.Layer) []byte {
		l := imagetest.NewLayout(t)
		return l.Name(l.Image(change, layers...), "web:v1").Pack()
	}
	for name, c := range map[string]struct {
		archive func(*testing.T) []byte
		kind    fault.Kind
		want    string
	}{
		"corrupt layer": {func(t *testing.T) []byte {
			l := good(t)
			b := bytes.Clone(one)
			b[600] ^= 1
			l.Files[layerName] = b
			return l.Pack()
		}, fault.Corrupt, string(digest.FromBytes(one))},
		"missing layer": {func(t *testing.T) []byte { l := good(t); delete(l.Files, layerName); return l.Pack() }, fault.Corrupt, "lacks layer " + string(digest.FromBytes(one))},
		"wrong diff id": {func(t *testing.T) []byte {
			return with(t, nil, imagetest.NewLayer(v1.MediaTypeImageLayer, one, []byte("other")))
		}, fault.Corrupt, string(digest.FromBytes(one))},
		"wrong size": {func(t *testing.T) []byte {
			return with(t, func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Size++ }, imagetest.PlainLayer(one))
		}, fault.Corrupt, "its descriptor says"},
		"broken gzip": {func(t *testing.T) []byte {
			b := imagetest.Gzip(t, one)
			return with(t, nil, imagetest.NewLayer(v1.MediaTypeImageLayerGzip, b[:len(b)-6], one))
		}, fault.Corrupt, "damaged"},
		"layer is no tar": {func(t *testing.T) []byte {
			return with(t, nil, imagetest.PlainLayer([]byte(strings.Repeat("no tar ", 200))))
		}, fault.Corrupt, "damaged"},
		"truncated archive": {func(t *testing.T) []byte { b := good(t).Pack(); return b[:len(b)-2048] }, fault.Corrupt, ""},
		"no archive":        {func(*testing.T) []byte { return []byte(strings.Repeat("hello ", 1000)) }, fault.Corrupt, "cannot be read"},
		"empty":             {func(*testing.T) []byte { return nil }, fault.Invalid, "empty"},
		"no index":          {func(t *testing.T) []byte { return imagetest.Tar(t, imagetest.Entry("x", tar.TypeReg, "x")) }, fault.Invalid, "neither index.json nor manifest.json"},
		"index no json":     {func(t *testing.T) []byte { return imagetest.Tar(t, imagetest.Entry("index.json", tar.TypeReg, "{")) }, fault.Invalid, "index.json"},
		"bad blob name": {func(t *testing.T) []byte {
			return imagetest.Tar(t, imagetest.Entry("blobs/sha256/../../x", tar.TypeReg, "x"), imagetest.Entry("blobs/sha256/zz", tar.TypeReg, "x"))
		}, fault.Invalid, "no SHA-256 digest"},
		"entry outside": {func(t *testing.T) []byte { return imagetest.Tar(t, imagetest.Entry("../x", tar.TypeReg, "x")) }, fault.Invalid, "outside of itself"},
		"device":        {func(t *testing.T) []byte { return imagetest.Tar(t, imagetest.Entry("x", tar.TypeChar, "")) }, fault.Invalid, "no file, folder or link"},
		"two indexes": {func(t *testing.T) []byte {
			return imagetest.Tar(t, imagetest.Entry("index.json", tar.TypeReg, "{}"), imagetest.Entry("./index.json", tar.TypeReg, "{}"))
		}, fault.Invalid, "two files"},
		"other platform": {func(t *testing.T) []byte {
			return with(t, func(i *v1.Image, _ *v1.Manifest) { i.Architecture = "s390x" }, imagetest.PlainLayer(one))
		}, fault.Unsupported, "linux/s390x"},
		"more diff ids": {func(t *testing.T) []byte {
			return with(t, func(i *v1.Image, _ *v1.Manifest) { i.RootFS.DiffIDs = append(i.RootFS.DiffIDs, i.RootFS.DiffIDs[0]) }, imagetest.PlainLayer(one))
		}, fault.Invalid, "1 layers and 2 diff ids"},
		"unknown layer type": {func(t *testing.T) []byte {
			return with(t, nil, imagetest.NewLayer("application/x+encrypted", one, one))
		}, fault.Unsupported, "cannot be unpacked"},
		"no image": {func(t *testing.T) []byte {
			return with(t, func(_ *v1.Image, m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }, imagetest.PlainLayer(one))
		}, fault.Unsupported, "no container image"},
		"index and manifest": {func(t *testing.T) []byte {
			l := imagetest.NewLayout(t)
			d := l.Blob(v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"layers":[{"digest":"x"}]}`))
			return l.Name(d, "web:v1").Pack()
		}, fault.Invalid, "index and manifest at once"},
		"endless index": {func(t *testing.T) []byte {
			l := imagetest.NewLayout(t)
			d := l.Image(nil, imagetest.PlainLayer(one))
			for range 6 {
				d.Platform = nil
				d = l.Document(v1.MediaTypeImageIndex, v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d}})
			}
			return l.Name(d, "web:v1").Pack()
		}, fault.Invalid, "deep in one another"},
		"bad digest": {func(t *testing.T) []byte {
			l := imagetest.NewLayout(t)
			l.Index.Manifests = []v1.Descriptor{{Digest: "sha256:../../../etc/passwd"}}
			return l.Pack()
		}, fault.Invalid, "is not a SHA-256 digest"},
		"no name": {func(t *testing.T) []byte {
			l := imagetest.NewLayout(t)
			return l.Name(l.Image(nil, imagetest.PlainLayer(one)), "v1").Pack()
		}, fault.Invalid, "does not say what its image is called"},
		"bad name": {func(t *testing.T) []byte {
			l := imagetest.NewLayout(t)
			return l.Name(l.Image(nil, imagetest.PlainLayer(one)), "Web:v1").Pack()
		}, fault.Invalid, "malformed"},
		"layer that leads out": {func(t *testing.T) []byte {
			return with(t, nil, imagetest.PlainLayer(imagetest.Tar(t, imagetest.Entry("../evil", tar.TypeReg, "x"))))
		}, fault.Invalid, "leads upwards"},
		"NUL in the command": {func(t *testing.T) []byte {
			return with(t, func(i *v1.Image, _ *v1.Manifest) { i.Config.Cmd = []string{"a\x00b"} }, imagetest.PlainLayer(one))
		}, fault.Invalid, "NUL"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Import(t.Context(), bytes.NewReader(c.archive(t)), ImportOptions{})
			if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v (%s), want %s: %q", err, fault.KindOf(err), c.kind, c.want)
			}
			s.isEmpty(t)
		})
	}
}

func TestNames(t *testing.T) {
	one, two := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one")), imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "two"))
	s := newStore(t)
	l := imagetest.NewLayout(t)
	a, b := l.Image(nil, imagetest.PlainLayer(one)), l.Image(nil, imagetest.PlainLayer(two))
	archive := l.Name(a, "web:v1").Name(b, "web:v2").Pack()
	infos, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
	if err != nil || len(infos) != 2 {
		t.Fatalf("%v, %v", infos, err)
	}
	if _, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{Reference: "web:v3"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a name that the archive does not have: %v", err)
	}
	if _, err := s.Import(t.Context(), strings.NewReader(""), ImportOptions{Reference: "web@" + string(a.Digest)}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a digest as name: %v", err)
	}
	// Picking one of several, and giving the only one another name.
	if infos, err = s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{Reference: "localhost/web:v2"}); err != nil || len(infos) != 1 || infos[0].Digest != b.Digest {
		t.Errorf("picked %v, %v", infos, err)
	}
	if infos, err = s.Import(t.Context(), bytes.NewReader(imagetest.Archive(t, "x:y", one)), ImportOptions{Reference: "other"}); err != nil || infos[0].Reference != "localhost/other:latest" {
		t.Errorf("renamed %v, %v", infos, err)
	}
	// A name that moves leaves nothing behind.
	if _, err = s.Import(t.Context(), bytes.NewReader(imagetest.Archive(t, "x:y", two)), ImportOptions{Reference: "other"}); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range list {
		got = append(got, i.Reference)
	}
	if diff := cmp.Diff([]string{"localhost/other:latest", "localhost/web:v1", "localhost/web:v2"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestMultiPlatform(t *testing.T) {
	one := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	l := imagetest.NewLayout(t)
	here, there := l.Image(nil, imagetest.PlainLayer(one)), l.Image(func(i *v1.Image, _ *v1.Manifest) { i.Architecture = "s390x" }, imagetest.PlainLayer(one))
	here.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	there.Platform = &v1.Platform{OS: "linux", Architecture: "s390x"}
	attestation := l.Document(v1.MediaTypeImageManifest, map[string]string{"x": "attestation"})
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	idx := l.Document(v1.MediaTypeImageIndex, v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{attestation, there, here}})
	s := newStore(t)
	info := s.mustImport(t, l.Name(idx, "web:v1").Pack())
	if info.Digest != here.Digest || info.IndexDigest != idx.Digest {
		t.Errorf("digest %s, index %s", info.Digest, info.IndexDigest)
	}
	if img, err := s.Resolve(t.Context(), "web@"+string(idx.Digest)); err != nil || img.Digest != here.Digest {
		t.Errorf("by the index's digest: %v, %v", img.Digest, err)
	}
	// A signature over the index is one over what it names.
	k := trustKey(t, s)
	sig, err := ocilayout.SignDigest(k, ocilayout.Reference{Registry: "localhost", Repository: "web"}, idx.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, signer, err := s.AttachSignature(t.Context(), "web:v1", sig); err != nil || signer == nil {
		t.Fatalf("signer %v, %v", signer, err)
	}
	if img, err := s.Resolve(t.Context(), "web:v1"); err != nil || len(img.Signers) != 1 {
		t.Errorf("signers %v, %v", img.Signers, err)
	}

	l = imagetest.NewLayout(t)
	there = l.Image(func(i *v1.Image, _ *v1.Manifest) { i.Architecture = "s390x" }, imagetest.PlainLayer(one))
	there.Platform = &v1.Platform{OS: "linux", Architecture: "s390x"}
	idx = l.Document(v1.MediaTypeImageIndex, v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{there, there}})
	_, err = s.Import(t.Context(), bytes.NewReader(l.Name(idx, "web:v2").Pack()), ImportOptions{})
	if fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("only another platform: %v", err)
	}
}

func TestRemove(t *testing.T) {
	one, two := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one")), imagetest.Tar(t, imagetest.Entry("more", tar.TypeReg, "two"))
	var mu sync.Mutex
	used := map[digest.Digest][]string{}
	s := newStore(t, func(c *Config) {
		c.InUse = func(d digest.Digest) []string { mu.Lock(); defer mu.Unlock(); return used[d] }
	})
	a := s.mustImport(t, imagetest.Archive(t, "a:v1", one))
	b := s.mustImport(t, imagetest.Archive(t, "b:v1", one, two))
	mu.Lock()
	used[a.Digest] = []string{"web"}
	mu.Unlock()
	_, err := s.Remove(t.Context(), "a:v1")
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "web") || !strings.Contains(fault.HintOf(err), "tero rm web") {
		t.Errorf("remove of a used image: %v (hint %q)", err, fault.HintOf(err))
	}
	// A further name may go, and a name may move on while containers stay.
	if _, err := s.Import(t.Context(), bytes.NewReader(imagetest.Archive(t, "x:y", one)), ImportOptions{Reference: "a:v2"}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Remove(t.Context(), "a:v2"); err != nil || r.Content {
		t.Errorf("remove of a further name: %+v, %v", r, err)
	}
	img, err := s.Resolve(t.Context(), "a:v1")
	if err != nil {
		t.Fatal(err)
	}
	s.Release(img) // the record has named it
	if _, err := s.Import(t.Context(), bytes.NewReader(imagetest.Archive(t, "x:y", two)), ImportOptions{Reference: "a:v1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(img.Layers[0]); err != nil {
		t.Errorf("a running container lost its layer: %v", err)
	}
	mu.Lock()
	delete(used, a.Digest)
	mu.Unlock()
	for _, ref := range []string{"a:v1", "b@" + string(b.Digest)} {
		r, err := s.Remove(t.Context(), ref)
		if err != nil || !r.Content || r.Freed <= 0 {
			t.Errorf("remove %s: %+v, %v", ref, r, err)
		}
	}
	s.isEmpty(t)
	if _, err := s.Remove(t.Context(), "a:v1"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("remove of nothing: %v", err)
	}
}

func TestOpenCleansAfterACrash(t *testing.T) {
	s := newStore(t)
	one := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	info := s.mustImport(t, imagetest.Archive(t, "web:v1", one))
	// What a crash leaves: work in progress, and parts without an image.
	for _, p := range []string{filepath.Join(s.ingest(), "import-1", "layer-x"), s.layerPath(digest.FromString("x"))} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.blobPath(digest.FromString("x")), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Root: s.root, TrustDir: s.trust.dir, Log: discard()}
	if _, err := Open(t.Context(), c); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("second Open: %v, want a fault of kind exists with a hint", err)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s.db = again.db // for the clean-up
	img, err := again.Resolve(t.Context(), "web:v1")
	if err != nil || img.Digest != info.Digest {
		t.Errorf("after the crash: %v, %v", img, err)
	}
	again.Release(img)
	if _, err := again.Remove(t.Context(), "web:v1"); err != nil {
		t.Fatal(err)
	}
	again.isEmpty(t)
}

func TestConcurrentImports(t *testing.T) {
	s := newStore(t)
	var entries []*tar.Header
	for i := range 50 {
		entries = append(entries, imagetest.Entry("f"+string(rune('a'+i%26))+string(rune('a'+i/26)), tar.TypeReg, strings.Repeat("x", 10000)))
	}
	shared := imagetest.Tar(t, entries...)
	var wg sync.WaitGroup
	names := []string{"a:v1", "b:v1", "c:v1", "d:v1", "a:v1", "b:v1"}
	for i, name := range names {
		wg.Go(func() {
			archive := imagetest.Archive(t, name, shared, imagetest.Tar(t, imagetest.Entry("own", tar.TypeReg, name)))
			if i == 3 { // one that fails must not take the others' parts along
				archive = archive[:len(archive)-3000]
			}
			_, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
			if (err != nil) != (i == 3) {
				t.Errorf("import %d: %v", i, err)
			}
			if _, err := s.Remove(t.Context(), "d:v1"); fault.KindOf(err) != fault.NotFound {
				t.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
	for _, name := range []string{"a:v1", "b:v1", "c:v1"} {
		img, err := s.Resolve(t.Context(), name)
		if err != nil || len(img.Layers) != 2 {
			t.Errorf("%s: %v, %v", name, img.Layers, err)
		}
	}
	if layers, _ := os.ReadDir(s.layers()); len(layers) != 4 {
		t.Errorf("%d layers, want 4", len(layers))
	}
}

func TestCancelledImport(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, strings.Repeat("x", 1<<20))))
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), readerFunc(func([]byte) (int, error) { cancel(); return 0, ctx.Err() }))
	if _, err := s.Import(ctx, r, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	s.isEmpty(t)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// smallDisk mounts a tmpfs until the test ends.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, "3m")
	s := newStore(t, func(c *Config) { c.Root = filepath.Join(disk, "images") })
	before := s.mustImport(t, imagetest.Archive(t, "small:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))))
	for name, size := range map[string]int{"while staging": 4 << 20, "while unpacking": 1700 << 10} {
		_, err := s.Import(t.Context(), bytes.NewReader(imagetest.Archive(t, "big:v1", imagetest.Tar(t, imagetest.Entry("big", tar.TypeReg, strings.Repeat("x", size))))), ImportOptions{})
		if fault.KindOf(err) != fault.Exhausted || fault.HintOf(err) == "" || !strings.Contains(err.Error(), "is full") {
			t.Errorf("%s: %v (%s, hint %q)", name, err, fault.KindOf(err), fault.HintOf(err))
		}
		for dir, want := range map[string]int{s.ingest(): 0, s.layers(): 1, s.blobs(): 3} {
			if entries, _ := os.ReadDir(dir); len(entries) != want {
				t.Errorf("%s: %s has %d entries, want %d", name, dir, len(entries), want)
			}
		}
	}
	if img, err := s.Resolve(t.Context(), "small:v1"); err != nil || img.Digest != before.Digest {
		t.Errorf("the earlier image: %v, %v", img, err)
	}
	s.mustImport(t, imagetest.Archive(t, "small:v2", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "two"))))
}

func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Fatal(err)
	}
	source, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "app"), []byte("hello"), 0o755); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(dir, "layout")
	if _, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{Source: source, Layout: layout, Reference: "web:v1", Entrypoint: []string{"/app"}}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"docker-archive:" + dir + "/a.tar:localhost/web:v2", "oci-archive:" + dir + "/b.tar:localhost/web:v3"} {
		t.Run(to[:strings.IndexByte(to, ':')], func(t *testing.T) {
			b, err := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "--tmpdir", t.TempDir(), "copy", "oci:"+layout+":localhost/web:v1", to).CombinedOutput()
			if err != nil {
				t.Fatalf("skopeo: %v\n%s", err, b)
			}
			f, err := os.Open(strings.Split(to, ":")[1])
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s := newStore(t)
			infos, err := s.Import(t.Context(), f, ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(infos[0].Reference, "localhost/web:v") {
				t.Errorf("reference %s", infos[0].Reference)
			}
			img, err := s.Resolve(t.Context(), infos[0].Reference)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(img.Layers[0], "app")); err != nil || string(got) != "hello" {
				t.Errorf("app holds %q, %v", got, err)
			}
		})
	}
	// And back: skopeo reads a docker-archive into a layout that we then open.
	b, err := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", "docker-archive:"+dir+"/a.tar", "oci:"+dir+"/back:localhost/web:v4").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v\n%s", err, b)
	}
	l, err := ocilayout.Open(dir + "/back")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := l.WriteTar(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if info := s.mustImport(t, archive.Bytes()); info.Reference != "localhost/web:v4" {
		t.Errorf("reference %s", info.Reference)
	}
}

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newStore opens a store with an empty trust folder of its own.
func newStore(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	c := Config{Root: filepath.Join(t.TempDir(), "images"), TrustDir: filepath.Join(t.TempDir(), "trust"), Log: discard()}
	for _, f := range change {
		f(&c)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// e is a tar entry; mode and type have defaults.
func e(name string, typ byte, content string) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: typ, Mode: 0o644, ModTime: time.Unix(1000, 0)}
	switch typ {
	case tar.TypeReg:
		h.Size = int64(len(content))
		h.PAXRecords = map[string]string{"TERO.content": content}
	case tar.TypeDir:
		h.Mode = 0o755
	default:
		h.Linkname = content
	}
	return h
}

// layerTar makes a tar of entries by e.
func layerTar(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		c := *h
		content := c.PAXRecords["TERO.content"]
		if content != "" {
			c.PAXRecords = nil
		}
		if err := tw.WriteHeader(&c); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// layout is an image archive in the making; tests bend it before packing.
type layout struct {
	t     testing.TB
	blobs map[string][]byte // by name in the archive
	index v1.Index
}

func newLayout(t testing.TB) *layout {
	return &layout{t: t, blobs: map[string][]byte{}, index: v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{}}}
}

func (l *layout) blob(mediaType string, b []byte) v1.Descriptor {
	d := digest.FromBytes(b)
	l.blobs["blobs/sha256/"+d.Encoded()] = b
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func (l *layout) document(mediaType string, v any) v1.Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, b)
}

type testLayer struct {
	mediaType string
	blob      []byte
	plain     []byte
}

func plainLayer(b []byte) testLayer { return testLayer{v1.MediaTypeImageLayer, b, b} }

// image adds an image's documents and gives its manifest.
func (l *layout) image(change func(*v1.Image, *v1.Manifest), layers ...testLayer) v1.Descriptor {
	l.t.Helper()
	img := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	img.Config.Entrypoint = []string{"/app"}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(layer.plain))
		m.Layers = append(m.Layers, l.blob(layer.mediaType, layer.blob))
	}
	if change != nil {
		change(&img, &m)
	}
	if m.Config.Digest == "" {
		mediaType := m.Config.MediaType
		if mediaType == "" {
			mediaType = v1.MediaTypeImageConfig
		}
		m.Config = l.document(mediaType, img)
	}
	return l.document(v1.MediaTypeImageManifest, m)
}

func (l *layout) name(d v1.Descriptor, name string) *layout {
	d.Annotations = map[string]string{v1.AnnotationRefName: name}
	l.index.Manifests = append(l.index.Manifests, d)
	return l
}

// pack makes the archive.
func (l *layout) pack() []byte {
	l.t.Helper()
	idx, err := json.Marshal(l.index)
	if err != nil {
		l.t.Fatal(err)
	}
	files := []*tar.Header{e("oci-layout", tar.TypeReg, `{"imageLayoutVersion":"1.0.0"}`), e("index.json", tar.TypeReg, string(idx))}
	for name, b := range l.blobs {
		files = append(files, e(name, tar.TypeReg, string(b)))
	}
	return layerTar(l.t, files...)
}

// simple packs an image of plain layers called name.
func simple(t testing.TB, name string, layers ...[]byte) []byte {
	t.Helper()
	l := newLayout(t)
	var ls []testLayer
	for _, b := range layers {
		ls = append(ls, plainLayer(b))
	}
	return l.name(l.image(nil, ls...), name).pack()
}

func (s *Store) mustImport(t testing.TB, archive []byte) Info {
	t.Helper()
	infos, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
	if err != nil {
		t.Fatalf("import: %v (hint %q)", err, fault.HintOf(err))
	}
	return infos[0]
}

// isEmpty checks that nothing is in the store, under names or without.
func (s *Store) isEmpty(t testing.TB) {
	t.Helper()
	for _, dir := range []string{s.blobs(), s.layers(), s.ingest()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
	if infos, err := s.List(t.Context()); err != nil || len(infos) > 0 {
		t.Errorf("images %v, %v; want none", infos, err)
	}
}

// trustKey makes a key and trusts it as "release".
func trustKey(t testing.TB, s *Store) *ocilayout.PrivateKey {
	t.Helper()
	k, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pub.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.trust.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.trust.dir, "release.pub"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

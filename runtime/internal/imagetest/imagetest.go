// Package imagetest makes images and their archives for tests, good ones and
// bent ones.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// contentKey holds an entry's content until Tar writes it.
const contentKey = "TERO.content"

// Entry is a tar entry at second 1000 with a mode fit for its type. content is
// that of a file, or where a link leads.
func Entry(name string, typ byte, content string) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: typ, Mode: 0o644, ModTime: time.Unix(1000, 0)}
	switch typ {
	case tar.TypeReg:
		h.Size = int64(len(content))
		h.PAXRecords = map[string]string{contentKey: content}
	case tar.TypeDir:
		h.Mode = 0o755
	default:
		h.Linkname = content
	}
	return h
}

// Tar makes a tar of entries.
func Tar(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		c := *h
		content := c.PAXRecords[contentKey]
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

// Gzip compresses.
func Gzip(t testing.TB, b []byte) []byte {
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

// Zstd compresses.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// Layout is an image archive in the making; tests bend it before packing.
type Layout struct {
	t     testing.TB
	Files map[string][]byte // by name in the archive
	Index v1.Index
}

// NewLayout begins an archive.
func NewLayout(t testing.TB) *Layout {
	return &Layout{t: t, Files: map[string][]byte{}, Index: v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{}}}
}

// Blob adds bytes.
func (l *Layout) Blob(mediaType string, b []byte) v1.Descriptor {
	d := digest.FromBytes(b)
	l.Files["blobs/sha256/"+d.Encoded()] = b
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// Document adds a value as JSON.
func (l *Layout) Document(mediaType string, v any) v1.Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Blob(mediaType, b)
}

// Layer is a layer for Image: what the archive holds, and what the
// configuration says that it is when decompressed.
type Layer struct {
	MediaType   string
	Blob, Plain []byte
}

// NewLayer is a layer that the configuration calls plain, and that the archive
// holds as blob.
func NewLayer(mediaType string, blob, plain []byte) Layer {
	return Layer{MediaType: mediaType, Blob: blob, Plain: plain}
}

// PlainLayer is a layer without compression.
func PlainLayer(b []byte) Layer { return NewLayer(v1.MediaTypeImageLayer, b, b) }

// Image adds an image's documents and gives its manifest. change, when not nil,
// bends them first.
func (l *Layout) Image(change func(*v1.Image, *v1.Manifest), layers ...Layer) v1.Descriptor {
	l.t.Helper()
	img := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	img.Config.Entrypoint = []string{"/app"}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(layer.Plain))
		m.Layers = append(m.Layers, l.Blob(layer.MediaType, layer.Blob))
	}
	if change != nil {
		change(&img, &m)
	}
	if m.Config.Digest == "" {
		mediaType := m.Config.MediaType
		if mediaType == "" {
			mediaType = v1.MediaTypeImageConfig
		}
		m.Config = l.Document(mediaType, img)
	}
	return l.Document(v1.MediaTypeImageManifest, m)
}

// Name puts a manifest or an index into the layout's index under a name.
func (l *Layout) Name(d v1.Descriptor, name string) *Layout {
	d.Annotations = map[string]string{v1.AnnotationRefName: name}
	l.Index.Manifests = append(l.Index.Manifests, d)
	return l
}

// Pack makes the archive.
func (l *Layout) Pack() []byte {
	l.t.Helper()
	idx, err := json.Marshal(l.Index)
	if err != nil {
		l.t.Fatal(err)
	}
	files := []*tar.Header{Entry("oci-layout", tar.TypeReg, `{"imageLayoutVersion":"1.0.0"}`), Entry("index.json", tar.TypeReg, string(idx))}
	for name, b := range l.Files {
		files = append(files, Entry(name, tar.TypeReg, string(b)))
	}
	return Tar(l.t, files...)
}

// Archive packs one image of plain layers called name.
func Archive(t testing.TB, name string, layers ...[]byte) []byte {
	t.Helper()
	l := NewLayout(t)
	var ls []Layer
	for _, b := range layers {
		ls = append(ls, PlainLayer(b))
	}
	return l.Name(l.Image(nil, ls...), name).Pack()
}

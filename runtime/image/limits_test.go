package image

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/imagetest"
)

func TestLimits(t *testing.T) {
	file := func(name string) *tar.Header { return imagetest.Entry(name, tar.TypeReg, "x") }
	big := imagetest.Tar(t, imagetest.Entry("big", tar.TypeReg, strings.Repeat("x", 1<<20)))
	for name, c := range map[string]struct {
		limits Limits
		layer  imagetest.Layer
		want   string
	}{
		"layer bytes":     {Limits{LayerBytes: 1 << 19}, imagetest.PlainLayer(big), "unpacks to more than"},
		"gzip bomb":       {Limits{LayerBytes: 1 << 19}, imagetest.NewLayer(v1.MediaTypeImageLayerGzip, imagetest.Gzip(t, big), big), "unpacks to more than"},
		"zstd bomb":       {Limits{LayerBytes: 1 << 19}, imagetest.NewLayer(v1.MediaTypeImageLayerZstd, imagetest.Zstd(t, big), big), "unpacks to more than"},
		"padding bomb":    {Limits{LayerBytes: 1 << 10, LayerEntries: 1}, imagetest.NewLayer(v1.MediaTypeImageLayerGzip, imagetest.Gzip(t, append(imagetest.Tar(t), make([]byte, 1<<20)...)), nil), "larger than the limit"},
		"entries":         {Limits{LayerEntries: 2}, imagetest.PlainLayer(imagetest.Tar(t, file("a"), file("b"), file("c"))), "more than 2 entries"},
		"layers":          {Limits{Layers: 0}, imagetest.PlainLayer(big), ""},
		"archive bytes":   {Limits{ArchiveBytes: 1 << 19}, imagetest.PlainLayer(big), "the archive is larger than the limit"},
		"archive entries": {Limits{ArchiveEntries: 3}, imagetest.PlainLayer(big), "more than 3 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, func(o *Config) { o.Limits = c.limits })
			l := imagetest.NewLayout(t)
			archive := l.Name(l.Image(nil, c.layer), "a:b").Pack()
			_, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Invalid {
				t.Errorf("error %v (%s), want invalid: %q", err, fault.KindOf(err), c.want)
			}
			s.isEmpty(t)
		})
	}
}

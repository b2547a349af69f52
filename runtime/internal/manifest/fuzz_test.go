package manifest

import (
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
)

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x","size":-1}]}`), v1.MediaTypeImageIndex)
	f.Add([]byte(`{"config":{},"layers":[null]}`), v1.MediaTypeImageManifest)
	f.Add([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:"]}}`), "")
	f.Fuzz(func(t *testing.T, b []byte, mediaType string) {
		m, idx, err := parse(b, v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b)})
		if err != nil && fault.KindOf(err) == fault.Internal {
			t.Fatalf("%v has no kind", err)
		}
		if err == nil && idx == nil {
			for _, l := range append(m.Layers, m.Config) {
				if l.Digest.Validate() != nil || l.Size < 0 {
					t.Fatalf("%+v was let through", l)
				}
			}
		}
		if c, err := parseConfig(b, "x"); err == nil {
			_ = launchConfig(c.Config)
		}
		if h, err := parseHealth(b, "x"); err == nil && h != nil && len(h.Command) == 0 {
			t.Errorf("a health check without a command: %+v", h)
		}
	})
}

// Package manifest reads the documents of images, the OCI's and Docker's:
// indexes, manifests, configurations and the manifests of signatures
// (image-spec). They are foreign: each is checked before anything relies on it.
package manifest

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/layer"
)

// Image is one image for this node's platform, as the image database keeps it.
type Image struct {
	Digest       digest.Digest        `json:"digest"`
	ConfigDigest digest.Digest        `json:"configDigest"`
	Platform     string               `json:"platform"`
	Size         int64                `json:"size"`
	Created      time.Time            `json:"created"`
	Config       workload.ImageConfig `json:"config"`
	Layers       []layer.Layer        `json:"layers"` // lowest first
	Composed     Composed             `json:"composed,omitzero"`
}

// Composed is the file that the layers of an image were composed to (package
// erofs). Its digest names it.
type Composed struct {
	Digest digest.Digest `json:"digest"`
	// Version is the composition's: of an older one is none.
	Version int `json:"version"`
}

// Source holds the blobs that documents name. what says in errors what a blob is.
type Source interface {
	// Document gives a blob that must be small, checked against its digest.
	Document(d v1.Descriptor, what string) ([]byte, error)
	// Has is nil when the blob is there, with the size that d says.
	Has(d v1.Descriptor, what string) error
}

// Docker's media types for what the OCI standardised later.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// layerTypes are the media types of layers that can be unpacked.
var layerTypes = map[string]bool{
	v1.MediaTypeImageLayer: true, v1.MediaTypeImageLayerGzip: true, v1.MediaTypeImageLayerZstd: true,
	dockerLayer: true, dockerLayer + ".gzip": true, dockerLayer + ".zstd": true,
}

// maxNesting is how deep indexes may lie in one another.
const maxNesting = 4

// ParseIndex reads an index; what names it in errors.
func ParseIndex(b []byte, what string) (v1.Index, error) {
	var idx v1.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return idx, fault.New(fault.Invalid, "%s: %w", what, err)
	}
	for _, d := range idx.Manifests {
		if err := checkDescriptor(d, what); err != nil {
			return idx, err
		}
	}
	return idx, nil
}

func checkDescriptor(d v1.Descriptor, what string) error {
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return fault.New(fault.Invalid, "%s: digest %q is not a SHA-256 digest", what, string(d.Digest))
	}
	if d.Size < 0 {
		return fault.New(fault.Invalid, "%s: %s has a negative size", what, d.Digest)
	}
	return nil
}

// Read reads the image that a descriptor leads to on this node's platform, of
// at most maxLayers layers; index is the digest of the index it went through,
// if any.
func Read(src Source, d v1.Descriptor, maxLayers int) (img Image, index digest.Digest, err error) {
	for range maxNesting {
		b, err := src.Document(d, "manifest")
		if err != nil {
			return img, "", err
		}
		m, idx, err := parse(b, d)
		if err != nil {
			return img, "", err
		}
		if idx == nil {
			img, err = assemble(src, d, m, maxLayers)
			return img, index, err
		}
		if index == "" {
			index = d.Digest
		}
		if d, err = choosePlatform(*idx, d.Digest); err != nil {
			return img, "", err
		}
	}
	return img, "", fault.New(fault.Invalid, "index %s: indexes lie more than %d deep in one another", index, maxNesting)
}

// parse reads a manifest or an index.
func parse(b []byte, d v1.Descriptor) (v1.Manifest, *v1.Index, error) {
	what := "manifest " + string(d.Digest)
	var doc struct {
		v1.Manifest
		Manifests []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc.Manifest, nil, fault.New(fault.Invalid, "%s: %w", what, err)
	}
	if doc.MediaType != "" && d.MediaType != "" && doc.MediaType != d.MediaType {
		return doc.Manifest, nil, fault.New(fault.Invalid, "%s: it says it is %q, its descriptor says %q", what, doc.MediaType, d.MediaType)
	}
	mediaType := d.MediaType
	if mediaType == "" {
		mediaType = doc.MediaType
	}
	switch mediaType {
	case v1.MediaTypeImageIndex, dockerIndex:
		if len(doc.Layers) > 0 { // one document, two readings: CVE-2021-41190
			return doc.Manifest, nil, fault.New(fault.Invalid, "%s is index and manifest at once", what)
		}
		idx, err := ParseIndex(b, what)
		return doc.Manifest, &idx, err
	case v1.MediaTypeImageManifest, dockerManifest:
		if len(doc.Manifests) > 0 {
			return doc.Manifest, nil, fault.New(fault.Invalid, "%s is index and manifest at once", what)
		}
	default:
		return doc.Manifest, nil, fault.New(fault.Unsupported, "%s is of type %q, which is no container image", what, mediaType)
	}
	for _, l := range append(slices.Clone(doc.Layers), doc.Config) {
		if err := checkDescriptor(l, what); err != nil {
			return doc.Manifest, nil, err
		}
	}
	return doc.Manifest, nil, nil
}

// choosePlatform picks this node's manifest of an index.
func choosePlatform(idx v1.Index, of digest.Digest) (v1.Descriptor, error) {
	var have []string
	for _, d := range idx.Manifests {
		p := d.Platform
		if p == nil {
			if len(idx.Manifests) == 1 {
				return d, nil // the configuration will tell
			}
			continue
		}
		if p.OS == "linux" && p.Architecture == runtime.GOARCH && variantRuns(p.Variant) {
			return d, nil
		}
		if p.OS != "unknown" { // attestations of BuildKit
			have = append(have, platformName(*p))
		}
	}
	return v1.Descriptor{}, fault.New(fault.Unsupported, "image %s is not for this node's platform, linux/%s; it is for %s", of, runtime.GOARCH, strings.Join(have, ", "))
}

// variantRuns tells whether every machine of GOARCH runs the variant.
func variantRuns(v string) bool {
	return v == "" || (runtime.GOARCH == "amd64" && v == "v1") || (runtime.GOARCH == "arm64" && v == "v8")
}

func platformName(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// assemble reads the configuration and puts together what is known.
func assemble(src Source, d v1.Descriptor, m v1.Manifest, maxLayers int) (Image, error) {
	what := "image " + string(d.Digest)
	if m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return Image{}, fault.New(fault.Unsupported, "%s has a configuration of type %q, which is no container image's", what, m.Config.MediaType)
	}
	b, err := src.Document(m.Config, "configuration")
	if err != nil {
		return Image{}, err
	}
	c, err := parseConfig(b, what)
	if err != nil {
		return Image{}, err
	}
	if len(m.Layers) > maxLayers {
		return Image{}, fault.New(fault.Invalid, "%s has %d layers; the most is %d", what, len(m.Layers), maxLayers)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return Image{}, fault.New(fault.Invalid, "%s has %d layers and %d diff ids", what, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	launch := launchConfig(c.Config)
	if launch.Health, err = parseHealth(b, what); err != nil {
		return Image{}, err
	}
	img := Image{
		Digest: d.Digest, ConfigDigest: m.Config.Digest, Platform: platformName(c.Platform),
		Size: d.Size + m.Config.Size, Config: launch,
	}
	if c.Created != nil {
		img.Created = c.Created.UTC()
	}
	var chain digest.Digest
	for i, l := range m.Layers {
		if !layerTypes[l.MediaType] {
			return Image{}, fault.New(fault.Unsupported, "%s: layer %s is of type %q, which cannot be unpacked", what, l.Digest, l.MediaType)
		}
		if err := src.Has(l, "layer"); err != nil {
			return Image{}, err
		}
		diff := c.RootFS.DiffIDs[i]
		chain = layer.ChainID(chain, diff)
		img.Layers = append(img.Layers, layer.Layer{Digest: l.Digest, DiffID: diff, ChainID: chain, Size: l.Size, MediaType: l.MediaType})
		img.Size += l.Size
	}
	return img, nil
}

// Signatures reads the signatures of a signature manifest.
func Signatures(src Source, d v1.Descriptor) ([]ocilayout.Signature, error) {
	b, err := src.Document(d, "signature manifest")
	if err != nil {
		return nil, err
	}
	m, idx, err := parse(b, d)
	if err != nil {
		return nil, err
	}
	if idx != nil {
		return nil, fault.New(fault.Invalid, "signature manifest %s is an index", d.Digest)
	}
	return ocilayout.ManifestSignatures(m, func(l v1.Descriptor) ([]byte, error) { return src.Document(l, "signature payload") })
}

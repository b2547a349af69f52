package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
)

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

// found is one image of an archive, read and checked but for its layers.
type found struct {
	reference ocilayout.Reference
	index     digest.Digest
	record    record
}

// images reads what images an archive holds, and the signatures beside them.
func (a *archive) images(reference string) ([]found, []ocilayout.Signature, error) {
	idx, err := a.index()
	if err != nil {
		return nil, nil, err
	}
	var images []v1.Descriptor
	var sigs []ocilayout.Signature
	for _, d := range idx.Manifests {
		if !ocilayout.IsSignature(d) {
			images = append(images, d)
			continue
		}
		more, err := a.signatures(d)
		if err != nil {
			return nil, nil, err
		}
		sigs = append(sigs, more...)
	}
	named, err := chooseNames(images, reference)
	if err != nil {
		return nil, nil, err
	}
	var out []found
	for _, n := range named {
		f := found{reference: n.reference}
		if f.record, f.index, err = a.image(n.descriptor); err != nil {
			return nil, nil, err
		}
		out = append(out, f)
	}
	return out, sigs, nil
}

// index reads the layout's index, or makes one for a docker-archive.
func (a *archive) index() (v1.Index, error) {
	f, ok := a.file(v1.ImageIndexFile)
	if !ok {
		if f, ok = a.file("manifest.json"); ok {
			return a.dockerIndex(f)
		}
		return v1.Index{}, fault.New(fault.Invalid, "the archive has neither %s nor manifest.json", v1.ImageIndexFile).
			WithHint("an image archive is a tar of an OCI image layout or a docker-archive")
	}
	b, err := a.document(f, v1.ImageIndexFile)
	if err != nil {
		return v1.Index{}, err
	}
	return parseIndex(b, v1.ImageIndexFile)
}

func parseIndex(b []byte, what string) (v1.Index, error) {
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

type named struct {
	reference  ocilayout.Reference
	descriptor v1.Descriptor
}

// chooseNames decides which images are taken under which names.
func chooseNames(images []v1.Descriptor, reference string) ([]named, error) {
	if len(images) == 0 {
		return nil, fault.New(fault.Invalid, "the archive holds no image")
	}
	if reference != "" {
		ref, err := parseName(reference)
		if err != nil {
			return nil, err
		}
		if len(images) == 1 {
			return []named{{ref, images[0]}}, nil
		}
		var names []string
		for _, d := range images {
			names = append(names, ocilayout.DescriptorName(d))
			if got, err := ocilayout.ParseReference(ocilayout.DescriptorName(d)); err == nil && got == ref {
				return []named{{ref, d}}, nil
			}
		}
		return nil, fault.New(fault.Invalid, "the archive holds several images and none is called %s: %q", ref, names).
			WithHint("name one of them, or none to import all")
	}
	var out []named
	for _, d := range images {
		n := ocilayout.DescriptorName(d)
		if !strings.ContainsAny(n, ":/") {
			return nil, fault.New(fault.Invalid, "the archive does not say what its image is called (%q is no full name)", n).
				WithHint("give the name, for example: tero image import --name web:v1 FILE")
		}
		ref, err := parseName(n)
		if err != nil {
			return nil, err
		}
		out = append(out, named{ref, d})
	}
	return out, nil
}

// parseName reads a name to store an image under; it has a tag and no digest.
func parseName(s string) (ocilayout.Reference, error) {
	ref, err := ocilayout.ParseReference(s)
	if err == nil && ref.Digest != "" {
		err = fault.New(fault.Invalid, "an image is stored under a tag; %q names a digest", s).WithHint("use [registry/]repository[:tag]")
	}
	return ref, err
}

// image reads the image that a descriptor leads to on this node's platform;
// index is the digest of the index it went through, if any.
func (a *archive) image(d v1.Descriptor) (rec record, index digest.Digest, err error) {
	for range maxNesting {
		b, err := a.blobDocument(d, "manifest")
		if err != nil {
			return rec, "", err
		}
		m, idx, err := parseManifest(b, d)
		if err != nil {
			return rec, "", err
		}
		if idx == nil {
			rec, err = a.record(d, m)
			return rec, index, err
		}
		if index == "" {
			index = d.Digest
		}
		if d, err = choosePlatform(*idx, d.Digest); err != nil {
			return rec, "", err
		}
	}
	return rec, "", fault.New(fault.Invalid, "index %s: indexes lie more than %d deep in one another", index, maxNesting)
}

// parseManifest reads a manifest or an index.
func parseManifest(b []byte, d v1.Descriptor) (v1.Manifest, *v1.Index, error) {
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
		idx, err := parseIndex(b, what)
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

// record reads the configuration and puts together what is known.
func (a *archive) record(d v1.Descriptor, m v1.Manifest) (record, error) {
	what := "image " + string(d.Digest)
	if m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return record{}, fault.New(fault.Unsupported, "%s has a configuration of type %q, which is no container image's", what, m.Config.MediaType)
	}
	b, err := a.blobDocument(m.Config, "configuration")
	if err != nil {
		return record{}, err
	}
	c, err := parseConfig(b, what)
	if err != nil {
		return record{}, err
	}
	if len(m.Layers) > a.store.limits.Layers {
		return record{}, fault.New(fault.Invalid, "%s has %d layers; the most is %d", what, len(m.Layers), a.store.limits.Layers)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return record{}, fault.New(fault.Invalid, "%s has %d layers and %d diff ids", what, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	rec := record{
		Digest: d.Digest, ConfigDigest: m.Config.Digest, Platform: platformName(c.Platform),
		Size: d.Size + m.Config.Size, Config: launchConfig(c.Config),
	}
	if c.Created != nil {
		rec.Created = c.Created.UTC()
	}
	var chain digest.Digest
	for i, l := range m.Layers {
		if !layerTypes[l.MediaType] {
			return record{}, fault.New(fault.Unsupported, "%s: layer %s is of type %q, which cannot be unpacked", what, l.Digest, l.MediaType)
		}
		if _, err := a.blob(l, "layer"); err != nil {
			return record{}, err
		}
		diff := c.RootFS.DiffIDs[i]
		chain = chainID(chain, diff)
		rec.Layers = append(rec.Layers, Layer{Digest: l.Digest, DiffID: diff, ChainID: chain, Size: l.Size, MediaType: l.MediaType})
		rec.Size += l.Size
	}
	return rec, nil
}

// parseConfig reads an image's configuration and checks what a launch relies on.
func parseConfig(b []byte, what string) (v1.Image, error) {
	var c v1.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fault.New(fault.Invalid, "%s: configuration: %w", what, err)
	}
	if c.OS != "linux" || c.Architecture != runtime.GOARCH {
		return c, fault.New(fault.Unsupported, "%s is for %s; this node is linux/%s", what, platformName(c.Platform), runtime.GOARCH)
	}
	if c.RootFS.Type != "layers" {
		return c, fault.New(fault.Unsupported, "%s: root filesystem of type %q is not \"layers\"", what, c.RootFS.Type)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return c, fault.New(fault.Invalid, "%s: diff id %q is not a SHA-256 digest", what, string(d))
		}
	}
	for _, v := range slices.Concat(c.Config.Entrypoint, c.Config.Cmd, c.Config.Env, []string{c.Config.WorkingDir, c.Config.User, c.Config.StopSignal}) {
		if strings.ContainsRune(v, 0) {
			return c, fault.New(fault.Invalid, "%s: configuration: %q holds a NUL byte", what, v)
		}
	}
	return c, nil
}

func launchConfig(c v1.ImageConfig) workload.ImageConfig {
	return workload.ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User,
		StopSignal: c.StopSignal, Labels: c.Labels, ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)),
	}
}

// signatures reads the signatures of a signature manifest.
func (a *archive) signatures(d v1.Descriptor) ([]ocilayout.Signature, error) {
	b, err := a.blobDocument(d, "signature manifest")
	if err != nil {
		return nil, err
	}
	m, idx, err := parseManifest(b, d)
	if err != nil {
		return nil, err
	}
	if idx != nil {
		return nil, fault.New(fault.Invalid, "signature manifest %s is an index", d.Digest)
	}
	return ocilayout.ManifestSignatures(m, func(l v1.Descriptor) ([]byte, error) { return a.blobDocument(l, "signature payload") })
}

// dockerIndex makes an OCI index for a docker-archive's manifest.json.
func (a *archive) dockerIndex(f stagedFile) (v1.Index, error) {
	var idx v1.Index
	b, err := a.document(f, "manifest.json")
	if err != nil {
		return idx, err
	}
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &entries); err != nil {
		return idx, fault.New(fault.Invalid, "manifest.json: %w", err)
	}
	for _, e := range entries {
		d, err := a.dockerManifest(e.Config, e.Layers)
		if err != nil {
			return idx, err
		}
		tags := e.RepoTags
		if len(tags) == 0 {
			tags = []string{""}
		}
		for _, tag := range tags {
			d.Annotations = map[string]string{v1.AnnotationRefName: tag}
			idx.Manifests = append(idx.Manifests, d)
		}
	}
	return idx, nil
}

// dockerManifest makes an OCI manifest for one image of a docker-archive.
func (a *archive) dockerManifest(config string, layers []string) (v1.Descriptor, error) {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	take := func(name, mediaType string) (v1.Descriptor, error) {
		f, ok := a.file(name)
		if !ok {
			return v1.Descriptor{}, fault.New(fault.Corrupt, "the archive lacks %q, which its manifest.json names", name)
		}
		a.blobs[f.digest] = f
		return v1.Descriptor{MediaType: mediaType, Digest: f.digest, Size: f.size}, nil
	}
	var err error
	if m.Config, err = take(config, v1.MediaTypeImageConfig); err != nil {
		return m.Config, err
	}
	for _, name := range layers {
		l, err := take(name, v1.MediaTypeImageLayer)
		if err != nil {
			return l, err
		}
		if l.MediaType, err = a.layerType(l.Digest); err != nil {
			return l, err
		}
		m.Layers = append(m.Layers, l)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("encode manifest: %w", err)
	}
	f, err := a.addDocument(b)
	return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: f.digest, Size: f.size}, err
}

// layerType tells a layer's media type by its first bytes.
func (a *archive) layerType(d digest.Digest) (string, error) {
	f, err := os.Open(a.blobs[d].path)
	if err != nil {
		return "", fmt.Errorf("import: layer %s: %w", d, err)
	}
	defer f.Close()
	r, compression, err := decompress(f)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fault.New(fault.Corrupt, "layer %s: %w", d, err)
	}
	if r != nil {
		_ = r.Close()
	}
	if compression == compressionNone {
		return v1.MediaTypeImageLayer, nil
	}
	return v1.MediaTypeImageLayer + "+" + compression, nil
}

package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/manifest"
	"tero.internal/runtime/internal/stream"
)

// Image is one image of an archive, read and checked but for its layers.
type Image struct {
	manifest.Image
	// Reference is the name to store it under.
	Reference ocilayout.Reference
	// Index is the digest of the index that led to it; "" for none.
	Index digest.Digest
}

// Images reads what images an archive holds, and the signatures beside them.
// reference names the only image, or picks one of several; the names in the
// archive count when it is empty.
func (a *Archive) Images(reference string) ([]Image, []ocilayout.Signature, error) {
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
		more, err := manifest.Signatures(a, d)
		if err != nil {
			return nil, nil, err
		}
		sigs = append(sigs, more...)
	}
	named, err := chooseNames(images, reference)
	if err != nil {
		return nil, nil, err
	}
	var out []Image
	for _, n := range named {
		img := Image{Reference: n.reference}
		if img.Image, img.Index, err = manifest.Read(a, n.descriptor, a.limits.Layers); err != nil {
			return nil, nil, err
		}
		out = append(out, img)
	}
	return out, sigs, nil
}

// index reads the layout's index, or makes one for a docker-archive.
func (a *Archive) index() (v1.Index, error) {
	f, ok := a.find(v1.ImageIndexFile)
	if !ok {
		if f, ok = a.find("manifest.json"); ok {
			return a.dockerIndex(f)
		}
		return v1.Index{}, fault.New(fault.Invalid, "the archive has neither %s nor manifest.json", v1.ImageIndexFile).
			WithHint("an image archive is a tar of an OCI image layout or a docker-archive")
	}
	b, err := a.document(f, v1.ImageIndexFile)
	if err != nil {
		return v1.Index{}, err
	}
	return manifest.ParseIndex(b, v1.ImageIndexFile)
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
		ref, err := ParseName(reference)
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
		ref, err := ParseName(n)
		if err != nil {
			return nil, err
		}
		out = append(out, named{ref, d})
	}
	return out, nil
}

// ParseName reads a name to store an image under; it has a tag and no digest.
func ParseName(s string) (ocilayout.Reference, error) {
	ref, err := ocilayout.ParseReference(s)
	if err == nil && ref.Digest != "" {
		err = fault.New(fault.Invalid, "an image is stored under a tag; %q names a digest", s).WithHint("use [registry/]repository[:tag]")
	}
	return ref, err
}

// dockerIndex makes an OCI index for a docker-archive's manifest.json.
func (a *Archive) dockerIndex(f file) (v1.Index, error) {
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
func (a *Archive) dockerManifest(config string, layers []string) (v1.Descriptor, error) {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	take := func(name, mediaType string) (v1.Descriptor, error) {
		f, ok := a.find(name)
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
func (a *Archive) layerType(d digest.Digest) (string, error) {
	f, err := a.Open(d)
	if err != nil {
		return "", fmt.Errorf("import: layer %s: %w", d, err)
	}
	defer f.Close()
	r, compression, err := stream.Decompress(f)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fault.New(fault.Corrupt, "layer %s: %w", d, err)
	}
	if r != nil {
		_ = r.Close()
	}
	if compression == stream.Plain {
		return v1.MediaTypeImageLayer, nil
	}
	return v1.MediaTypeImageLayer + "+" + string(compression), nil
}

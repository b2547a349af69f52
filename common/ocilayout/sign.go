package ocilayout

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
)

// cosign's names.
const (
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	AnnotationSignature    = "dev.cosignproject.cosign/signature"
	annotationKind         = "kind"
	kindSignatures         = "dev.cosignproject.cosign/sigs"
	signatureType          = "cosign container image signature"
)

// Limits on signatures, which anybody can write.
const (
	MaxPayload    = 64 << 10
	MaxSignatures = 64
)

// Signature is cosign's signature over an image: the simple signing document
// and the ECDSA signature (ASN.1 DER, SHA-256) over its bytes.
type Signature struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// Claim is what a payload says.
type Claim struct {
	// Reference is the name that the signer gave the image.
	Reference string
	// Digest is the digest of the manifest or index that is signed.
	Digest digest.Digest
}

// payload is the simple signing document, its fields in cosign's order.
type payload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// SignDigest signs a manifest's digest under an image's name.
func SignDigest(k *PrivateKey, ref Reference, d digest.Digest) (Signature, error) {
	var p payload
	p.Critical.Identity.DockerReference = ref.Name()
	p.Critical.Image.DockerManifestDigest = d
	p.Critical.Type = signatureType
	b, err := json.Marshal(p)
	if err != nil {
		return Signature{}, fmt.Errorf("encode payload: %w", err)
	}
	sum := sha256.Sum256(b)
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, sum[:])
	if err != nil {
		return Signature{}, fmt.Errorf("sign: %w", err)
	}
	return Signature{Payload: b, Signature: sig}, nil
}

// Verify tells whether the key made the signature. It says nothing about what
// is signed: that is ParseClaim's.
func (k *PublicKey) Verify(s Signature) bool {
	sum := sha256.Sum256(s.Payload)
	return ecdsa.VerifyASN1(k.key, sum[:], s.Signature)
}

// ParseClaim reads a payload.
func ParseClaim(b []byte) (Claim, error) {
	if len(b) > MaxPayload {
		return Claim{}, fault.New(fault.Invalid, "signature payload is larger than %d bytes", MaxPayload)
	}
	var p payload
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&p); err != nil {
		return Claim{}, fault.New(fault.Invalid, "signature payload: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Claim{}, fault.New(fault.Invalid, "signature payload has something after its document")
	}
	if p.Critical.Type != signatureType {
		return Claim{}, fault.New(fault.Invalid, "signature payload is of type %q, not %q", p.Critical.Type, signatureType)
	}
	d := p.Critical.Image.DockerManifestDigest
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return Claim{}, fault.New(fault.Invalid, "signature payload names no SHA-256 manifest digest: %q", string(d))
	}
	return Claim{Reference: p.Critical.Identity.DockerReference, Digest: d}, nil
}

// SignatureTag is cosign's tag for the signatures over d: "sha256-<hex>.sig".
func SignatureTag(d digest.Digest) string {
	return strings.Replace(string(d), ":", "-", 1) + ".sig"
}

var signatureTagPattern = regexp.MustCompile(`(^|:)sha256-[0-9a-f]{64}\.sig$`)

// IsSignature tells whether an index entry holds cosign signatures and no image.
func IsSignature(d v1.Descriptor) bool {
	return d.Annotations[annotationKind] == kindSignatures || signatureTagPattern.MatchString(DescriptorName(d))
}

// Sign signs an image of a layout and adds the signature beside those that are
// there, as cosign does: an image manifest under SignatureTag whose layers are
// the payloads. name is as in Find. It gives what was signed.
func (l *Layout) Sign(name string, k *PrivateKey) (v1.Descriptor, Signature, error) {
	image, err := l.Find(name)
	if err != nil {
		return image, Signature{}, err
	}
	ref, err := ParseReference(DescriptorName(image))
	if err != nil {
		return image, Signature{}, err
	}
	s, err := SignDigest(k, ref, image.Digest)
	if err != nil {
		return image, s, err
	}
	return image, s, l.AddSignature(image.Digest, s)
}

// AddSignature puts a signature over d into the layout.
func (l *Layout) AddSignature(d digest.Digest, s Signature) error {
	tag := SignatureTag(d)
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	if old, ok, err := l.signatureManifest(tag); err != nil {
		return err
	} else if ok {
		manifest.Layers = old.Layers
	}
	if len(manifest.Layers) >= MaxSignatures {
		return fault.New(fault.Exhausted, "image %s has %d signatures already", d, len(manifest.Layers))
	}
	layer, err := l.WriteBlob(MediaTypeSimpleSigning, s.Payload)
	if err != nil {
		return err
	}
	layer.Annotations = map[string]string{AnnotationSignature: base64.StdEncoding.EncodeToString(s.Signature)}
	manifest.Layers = append(manifest.Layers, layer)

	config := v1.Image{Platform: v1.Platform{}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for _, layer := range manifest.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if manifest.Config, err = l.WriteBlob(v1.MediaTypeImageConfig, b); err != nil {
		return err
	}
	if b, err = json.Marshal(manifest); err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	m, err := l.WriteBlob(v1.MediaTypeImageManifest, b)
	if err != nil {
		return err
	}
	m.Annotations = map[string]string{annotationKind: kindSignatures}
	return l.Tag(tag, m)
}

// signatureManifest reads the manifest under a signature tag.
func (l *Layout) signatureManifest(tag string) (v1.Manifest, bool, error) {
	idx, err := l.Index()
	if err != nil {
		return v1.Manifest{}, false, err
	}
	i := slices.IndexFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == tag })
	if i < 0 {
		return v1.Manifest{}, false, nil
	}
	b, err := l.ReadBlob(idx.Manifests[i])
	if err != nil {
		return v1.Manifest{}, false, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return v1.Manifest{}, false, fault.New(fault.Corrupt, "signature manifest %s: %w", idx.Manifests[i].Digest, err)
	}
	return m, true, nil
}

// Signatures gives the signatures over d that the layout holds.
func (l *Layout) Signatures(d digest.Digest) ([]Signature, error) {
	m, ok, err := l.signatureManifest(SignatureTag(d))
	if err != nil || !ok {
		return nil, err
	}
	return ManifestSignatures(m, l.ReadBlob)
}

// ManifestSignatures gives the signatures in a signature manifest; read gives
// a blob's checked bytes. Layers that are no key signatures are passed over.
func ManifestSignatures(m v1.Manifest, read func(v1.Descriptor) ([]byte, error)) ([]Signature, error) {
	var out []Signature
	for _, layer := range m.Layers {
		sig, err := base64.StdEncoding.DecodeString(layer.Annotations[AnnotationSignature])
		if layer.MediaType != MediaTypeSimpleSigning || err != nil || len(sig) == 0 {
			continue
		}
		if len(out) == MaxSignatures || layer.Size > MaxPayload {
			return nil, fault.New(fault.Invalid, "signature manifest has more than %d signatures or a payload of more than %d bytes", MaxSignatures, MaxPayload)
		}
		b, err := read(layer)
		if err != nil {
			return nil, err
		}
		out = append(out, Signature{Payload: b, Signature: sig})
	}
	return out, nil
}

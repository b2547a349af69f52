package pluginpkg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"

	"tero.internal/common/fault"
)

// The artifact and media types of a package.
const (
	ArtifactPlugin    = "application/vnd.tero.plugin.v1"
	ArtifactSignature = "application/vnd.tero.plugin.signature.v1"
	MediaManifest     = "application/vnd.tero.plugin.manifest.v1+json"
	MediaWasm         = "application/wasm"
	mediaEd25519      = "application/vnd.tero.plugin.signature.v1.ed25519"
	mediaECDSA        = "application/vnd.tero.plugin.signature.v1.ecdsa-p256-sha256"
)

// The most that parts of a package may have.
const (
	MaxWasm        = 16 << 20
	maxOCIManifest = 64 << 10
	maxSignature   = 1 << 10
	maxSignatures  = 32
	epoch          = "1970-01-01T00:00:00Z"
	hintLayout     = "the folder must be one that \"tero plugin pack\" made"
)

// Package is a package as it was read: nothing in it is trusted until Verify.
type Package struct {
	// Digest is the digest of the OCI manifest; it names the package.
	Digest       digest.Digest
	Manifest     Manifest
	ManifestJSON []byte
	Wasm         []byte

	signatures []signature
}

type signature struct {
	media string
	bytes []byte
}

// Pack writes a package into the OCI layout at dir, which it makes, and gives
// its digest: the same input gives the same digest. A layout holds one package.
func Pack(ctx context.Context, dir string, manifestJSON, wasm []byte) (digest.Digest, error) {
	m, err := ParseManifest(manifestJSON)
	if err != nil {
		return "", err
	}
	if err := checkWasm(wasm); err != nil {
		return "", err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return "", fault.New(fault.Exists, "%s is not empty", dir).WithHint("name a folder that does not exist yet")
	}
	store, err := oci.NewWithContext(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("make layout %s: %w", dir, err)
	}
	config, err := push(ctx, store, MediaManifest, manifestJSON)
	if err != nil {
		return "", err
	}
	layer, err := push(ctx, store, MediaWasm, wasm)
	if err != nil {
		return "", err
	}
	d, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, ArtifactPlugin, oras.PackManifestOptions{
		ConfigDescriptor: &config,
		Layers:           []v1.Descriptor{layer},
		ManifestAnnotations: map[string]string{
			v1.AnnotationCreated: epoch, v1.AnnotationTitle: m.Name, v1.AnnotationVersion: m.Version,
		},
	})
	if err != nil {
		return "", fmt.Errorf("write package: %w", err)
	}
	if err := store.Tag(ctx, d, m.Version); err != nil {
		return "", fmt.Errorf("tag package: %w", err)
	}
	return d.Digest, nil
}

func checkWasm(wasm []byte) error {
	if !bytes.HasPrefix(wasm, []byte("\x00asm\x01\x00\x00\x00")) {
		return fault.New(fault.Invalid, "the module is not core WebAssembly version 1").
			WithHint("build it with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared")
	}
	if len(wasm) > MaxWasm {
		return fault.New(fault.Invalid, "the module has %d bytes, more than %d", len(wasm), MaxWasm).
			WithHint("leave out debug information: -ldflags=-s")
	}
	return nil
}

// push stores a blob; one that is already there is fine.
func push(ctx context.Context, store *oci.Store, mediaType string, b []byte) (v1.Descriptor, error) {
	d := content.NewDescriptorFromBytes(mediaType, b)
	if err := store.Push(ctx, d, bytes.NewReader(b)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return d, fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	return d, nil
}

// Open reads the package in the OCI layout at dir. Every byte is checked
// against the digests, and the manifest is parsed, but who made it is not known
// before Verify.
func Open(ctx context.Context, dir string) (*Package, error) {
	store, err := oci.NewFromFS(ctx, os.DirFS(dir))
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is not an OCI layout: %w", dir, err).WithHint(hintLayout)
	}
	p, err := read(ctx, store)
	if err != nil {
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return nil, err
		}
		return nil, fault.New(fault.Corrupt, "plugin package: %w", err).WithHint("pack and sign the plugin again")
	}
	return p, nil
}

func read(ctx context.Context, store *oci.ReadOnlyStore) (*Package, error) {
	subject, err := find(ctx, store)
	if err != nil {
		return nil, err
	}
	p := &Package{Digest: subject.Digest}
	m, err := fetchManifest(ctx, store, subject)
	if err != nil {
		return nil, err
	}
	if m.ArtifactType != ArtifactPlugin || m.Config.MediaType != MediaManifest || len(m.Layers) != 1 || m.Layers[0].MediaType != MediaWasm {
		return nil, fmt.Errorf("%s is not a plugin: artifact type %q, config %q, %d layers", subject.Digest, m.ArtifactType, m.Config.MediaType, len(m.Layers))
	}
	if p.ManifestJSON, err = fetch(ctx, store, m.Config, maxManifest); err != nil {
		return nil, fmt.Errorf("plugin manifest: %w", err)
	}
	if p.Manifest, err = ParseManifest(p.ManifestJSON); err != nil {
		return nil, err
	}
	if p.Wasm, err = fetch(ctx, store, m.Layers[0], MaxWasm); err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	if err := checkWasm(p.Wasm); err != nil {
		return nil, err
	}
	p.signatures, err = readSignatures(ctx, store, subject)
	return p, err
}

// find gives the one tagged manifest.
func find(ctx context.Context, store *oci.ReadOnlyStore) (v1.Descriptor, error) {
	var all []string
	if err := store.Tags(ctx, "", func(tags []string) error {
		all = append(all, tags...)
		return nil
	}); err != nil {
		return v1.Descriptor{}, err
	}
	if len(all) != 1 {
		return v1.Descriptor{}, fmt.Errorf("the layout has %d tags instead of one", len(all))
	}
	return store.Resolve(ctx, all[0])
}

func readSignatures(ctx context.Context, store *oci.ReadOnlyStore, subject v1.Descriptor) ([]signature, error) {
	referrers, err := store.Predecessors(ctx, subject)
	if err != nil {
		return nil, err
	}
	var signatures []signature
	for _, r := range referrers {
		m, err := fetchManifest(ctx, store, r)
		if err != nil {
			return nil, err
		}
		if m.ArtifactType != ArtifactSignature || m.Subject == nil || m.Subject.Digest != subject.Digest || len(m.Layers) != 1 {
			continue
		}
		if len(signatures) == maxSignatures {
			return nil, fmt.Errorf("more than %d signatures", maxSignatures)
		}
		b, err := fetch(ctx, store, m.Layers[0], maxSignature)
		if err != nil {
			return nil, fmt.Errorf("signature: %w", err)
		}
		signatures = append(signatures, signature{media: m.Layers[0].MediaType, bytes: b})
	}
	return signatures, nil
}

func fetchManifest(ctx context.Context, store content.Fetcher, d v1.Descriptor) (v1.Manifest, error) {
	var m v1.Manifest
	b, err := fetch(ctx, store, d, maxOCIManifest)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	return m, nil
}

// fetch reads a blob and checks its size and digest.
func fetch(ctx context.Context, store content.Fetcher, d v1.Descriptor, most int64) (_ []byte, err error) {
	if d.Size > most {
		return nil, fmt.Errorf("blob %s has %d bytes, more than %d", d.Digest, d.Size, most)
	}
	r, err := store.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return content.ReadAll(io.LimitReader(r, most+1), d)
}

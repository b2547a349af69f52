package workload

import "github.com/opencontainers/go-digest"

// Image is a resolved, verified and unpacked image.
type Image struct {
	// Reference is the full name that the image was resolved by ("localhost/web:v1").
	Reference string `json:"reference"`
	// Digest is the digest of the manifest of this node's platform.
	Digest digest.Digest `json:"digest"`
	// Config is what the image says about how to run it.
	Config ImageConfig `json:"config"`
	// Signers are the trusted keys with a valid signature over Digest; none when unsigned.
	Signers []Signer `json:"signers,omitempty"`
	// Layers are the folders of the unpacked layers, uppermost first (overlayfs
	// lowerdir order). They are read-only to everybody but the image store.
	Layers []string `json:"-"`
	// Erofs is the file of the image that Layers were composed to, with the
	// node's own files and mount points in it; "" where the kernel cannot mount it.
	Erofs string `json:"-"`
}

// ImageConfig is the part of the OCI image configuration that a launch uses.
type ImageConfig struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	User         string            `json:"user,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"`
	// Health is the image's own check of its containers; nil when it has none.
	Health *Health `json:"health,omitempty"`
}

// Signer is a trusted key that signed an image.
type Signer struct {
	// Name is what the operator calls the key (its file name without ".pub").
	Name string `json:"name"`
	// KeyID is "sha256:" and the hexadecimal SHA-256 of the key's DER SubjectPublicKeyInfo.
	KeyID string `json:"keyId"`
}

package testnode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Image is an image to make of a folder, or of a program, which becomes its
// entrypoint.
type Image struct {
	// Name is the reference, such as "web:v1".
	Name string
	// Path is the folder or the program.
	Path string
	// Unsigned images are not signed.
	Unsigned bool
}

// AddImages builds images, signs them with a key that the node trusts from then
// on, and imports them.
func (n *Node) AddImages(ctx context.Context, images ...Image) error {
	const prefix = "test"
	tero := func(args ...string) error {
		if r := n.Tero(ctx, args...); r.Code != 0 {
			return fmt.Errorf("tero %s: code %d: %s", strings.Join(args, " "), r.Code, r.Stderr)
		}
		return nil
	}
	if _, err := os.Stat(filepath.Join(n.WorkDir(), prefix+".key")); err != nil {
		if err := tero("image", "keygen", "--plain", "--prefix", prefix); err != nil {
			return err
		}
	}
	for _, i := range images {
		if err := tero("image", "build", "-t", i.Name, "--layout", "images", i.Path); err != nil {
			return err
		}
		if i.Unsigned {
			continue
		}
		if err := tero("image", "sign", "--key", prefix+".key", "--layout", "images", i.Name); err != nil {
			return err
		}
	}
	key, err := os.ReadFile(filepath.Join(n.WorkDir(), prefix+".pub"))
	if err != nil {
		return err
	}
	trust := filepath.Join(n.StateDir(), "trust", "images")
	if err := os.MkdirAll(trust, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(trust, prefix+".pub"), key, 0o600); err != nil {
		return err
	}
	return tero("image", "import", "images")
}

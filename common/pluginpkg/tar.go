package pluginpkg

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// The most that a tar of a package may hold.
const (
	maxTarFiles = 64
	maxTarFile  = MaxWasm
	maxTarBytes = 2 * MaxWasm
)

// layoutFile matches the files that an OCI layout of a package has.
var layoutFile = regexp.MustCompile(`^(\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// WriteTar writes the OCI layout at dir as an uncompressed tar.
func WriteTar(ctx context.Context, w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.New(fault.NotFound, "plugin package: %w", err).WithHint(hintLayout)
	}
	defer root.Close()
	t := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !layoutFile.MatchString(name) {
			return errors.Join(err, ctx.Err())
		}
		b, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err = t.Write(b)
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return fmt.Errorf("tar %s: %w", dir, err)
	}
	return t.Close()
}

// ReadTar writes the OCI layout in an uncompressed tar into dir, an empty
// folder. It takes only the files that a layout has, and only so many and so
// large ones; they are durable when it returns.
func ReadTar(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack package: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll("blobs/sha256", 0o755); err != nil {
		return fmt.Errorf("unpack package: %w", err)
	}
	t := tar.NewReader(io.LimitReader(r, maxTarBytes))
	for n := 0; ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return malformedTar(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if n++; n > maxTarFiles {
			return malformedTar(fmt.Errorf("more than %d files", maxTarFiles))
		}
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(h.Name) || h.Size > maxTarFile {
			return malformedTar(fmt.Errorf("%q of type %q with %d bytes has no place in it", h.Name, h.Typeflag, h.Size))
		}
		if err := writeFile(root, filepath.Clean(h.Name), t); err != nil {
			return err
		}
	}
	return errors.Join(atomicfile.SyncDir(filepath.Join(dir, "blobs/sha256")), atomicfile.SyncDir(dir))
}

func malformedTar(err error) error {
	return fault.New(fault.Invalid, "the plugin package is not a tar of an OCI layout: %w", err).WithHint(hintLayout)
}

func writeFile(root *os.Root, name string, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return malformedTar(err)
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); errors.Is(err, io.ErrUnexpectedEOF) {
		return malformedTar(err)
	} else if err != nil {
		return fmt.Errorf("unpack package: %w", err)
	}
	return nil
}

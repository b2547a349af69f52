package bundle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
)

// ReadDir reads the files of a policy folder, by name; a folder that does not
// exist is an empty one. Hidden files and *.md are left out. Everything else is
// taken, so that Parse can refuse a file whose name is misspelt.
func ReadDir(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	var files []File
	for _, e := range entries {
		if ignored(e.Name()) {
			continue
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("read policies: %s holds more than %d files", dir, maxFiles)
		}
		content, err := readFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read policies: %w", err)
		}
		files = append(files, File{Name: e.Name(), Content: content})
	}
	return files, nil
}

func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".md")
}

// readFile reads a regular file or a link to one, to one byte more than Parse
// permits. O_NONBLOCK keeps a fifo from holding up the daemon.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // the operator's folder
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// WriteDir makes files the whole content of a policy folder, in one step: a
// new folder is written beside it and the two are exchanged (renameat2). What
// ReadDir leaves out is kept. After a crash the folder is the old or the new.
func WriteDir(dir string, files []File) (err error) {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // policies are no secret
		return fmt.Errorf("write policies: %w", err)
	}
	if err := RemoveLeftovers(dir); err != nil {
		return err
	}
	staged, err := os.MkdirTemp(parent, leftover(dir))
	if err != nil {
		return fmt.Errorf("write policies: %w", err)
	}
	defer func() {
		if rm := os.RemoveAll(staged); rm != nil && err == nil {
			err = fmt.Errorf("remove the old policies: %w", rm)
		}
	}()
	kept, err := keep(dir)
	if err != nil {
		return err
	}
	for _, f := range slices.Concat(files, kept) {
		if err := atomicfile.Write(filepath.Join(staged, f.Name), f.Content, 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(staged, 0o755); err != nil { //nolint:gosec // policies are no secret
		return fmt.Errorf("write policies: %w", err)
	}
	return exchange(staged, dir)
}

func exchange(staged, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(staged, dir)
	}
	if err != nil {
		return fmt.Errorf("put the new policies in place at %s: %w", dir, err)
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// keep reads the files that ReadDir leaves out.
func keep(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	var files []File
	for _, e := range entries {
		if !ignored(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		content, err := readFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read policies: %w", err)
		}
		files = append(files, File{Name: e.Name(), Content: content})
	}
	return files, nil
}

func leftover(dir string) string { return "." + filepath.Base(dir) + ".staged-" }

// RemoveLeftovers removes what a WriteDir left that was killed.
func RemoveLeftovers(dir string) error {
	parent := filepath.Dir(filepath.Clean(dir))
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write policies: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), leftover(dir)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(parent, e.Name())); err != nil {
			return fmt.Errorf("write policies: %w", err)
		}
	}
	return nil
}

package ociconfig

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadLayered(t *testing.T) {
	link := func(dir, target, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	whiteout := func(dir, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	base := map[string]string{"etc/passwd": "base", "etc/group": "base group"}
	for name, c := range map[string]struct {
		layers func() []string
		want   string
		err    error
	}{
		"one layer":     {func() []string { return []string{layer(t, base)} }, "base", nil},
		"no layers":     {func() []string { return nil }, "", fs.ErrNotExist},
		"upper wins":    {func() []string { return []string{layer(t, map[string]string{"etc/passwd": "upper"}), layer(t, base)} }, "upper", nil},
		"shown through": {func() []string { return []string{layer(t, map[string]string{"etc/group": "upper"}), layer(t, base)} }, "base", nil},
		"whiteout": {func() []string {
			u := layer(t, nil)
			whiteout(u, "etc/passwd")
			return []string{u, layer(t, base)}
		}, "", fs.ErrNotExist},
		"whiteout of the folder": {func() []string {
			u := layer(t, nil)
			whiteout(u, "etc")
			return []string{u, layer(t, base)}
		}, "", fs.ErrNotExist},
		"opaque folder": {func() []string {
			u := layer(t, map[string]string{"etc/group": "upper"})
			if err := unix.Setxattr(filepath.Join(u, "etc"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
			return []string{u, layer(t, base)}
		}, "", fs.ErrNotExist},
		"file over folder": {func() []string { return []string{layer(t, map[string]string{"etc": "file"}), layer(t, base)} }, "", unix.ENOTDIR},
		"relative link": {func() []string {
			u := layer(t, map[string]string{"usr/share/users": "linked"})
			link(u, "../usr/share/users", "etc/passwd")
			return []string{u}
		}, "linked", nil},
		"link into a lower layer": {func() []string {
			u := layer(t, nil)
			link(u, "/nix/store/passwd", "etc/passwd")
			return []string{u, layer(t, map[string]string{"nix/store/passwd": "lower"})}
		}, "lower", nil},
		"linked folder": {func() []string {
			u := layer(t, map[string]string{"private/etc/passwd": "private"})
			link(u, "private/etc", "etc")
			return []string{u}
		}, "private", nil},
		"above the root": {func() []string {
			u := layer(t, map[string]string{"x": "root is the top"})
			link(u, "../../../../../../../../x", "etc/passwd")
			return []string{u}
		}, "root is the top", nil},
		"host file by absolute link": {func() []string {
			u := layer(t, nil)
			link(u, "/etc/hostname", "etc/passwd")
			return []string{u}
		}, "", fs.ErrNotExist},
		"host file by way of proc": {func() []string {
			u := layer(t, nil)
			link(u, "/proc/self/root/etc/passwd", "etc/passwd")
			return []string{u}
		}, "", fs.ErrNotExist},
		"loop": {func() []string {
			u := layer(t, nil)
			link(u, "passwd", "etc/passwd")
			return []string{u}
		}, "", unix.ELOOP},
		"fifo": {func() []string {
			u := layer(t, map[string]string{"etc/group": ""})
			if err := unix.Mkfifo(filepath.Join(u, "etc/passwd"), 0o644); err != nil {
				t.Fatal(err)
			}
			return []string{u}
		}, "", errNotRegular},
		"huge": {func() []string {
			return []string{layer(t, map[string]string{"etc/passwd": strings.Repeat("x", maxFile+1)})}
		}, "", unix.EFBIG},
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			got, err := readLayered(c.layers(), "/etc/passwd")
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if string(got) != c.want {
				t.Errorf("read %.40q, want %q", got, c.want)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

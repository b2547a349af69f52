package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tero.internal/test/testnode"
)

// TestCopy copies to and from a container that works against it.
func TestCopy(t *testing.T) {
	n := watched(t, "copy")
	outside := t.TempDir() // the same path is there inside the container
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("outside"), 0o666); err != nil {
		t.Fatal(err)
	}
	tero(t, n, 0, "run", "-d", "--name", "box", "watch:v1", "fill", outside)
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		r := n.Tero(t.Context(), "logs", "box")
		return strings.Contains(r.Stdout, "filled"), r.Stdout
	}); err != nil {
		t.Fatal(err)
	}
	t.Run("out", func(t *testing.T) { copyOut(t, n) })
	t.Run("in", func(t *testing.T) { copyIn(t, n) })
	t.Run("race", func(t *testing.T) { copyRace(t, n, outside) })
	tero(t, n, 0, "kill", "box")
	tero(t, n, 0, "wait", "box")
	refused(t, n.Tero(t.Context(), "cp", "box:/tmp/tree", "-"), 125, "has exited", "volume")
}

func copyOut(t *testing.T, n *testnode.Node) {
	dir := t.TempDir()
	r := tero(t, n, 0, "cp", "box:/tmp/tree", dir)
	if !strings.Contains(r.Stderr, "1 devices") {
		t.Errorf("the pipe that is left out is not told of: %q", r.Stderr)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "tree/file")); err != nil || string(b) != "of the container\n" {
		t.Errorf("%q, %v", b, err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "tree/sub/link")); err != nil || link != "/etc/shadow" {
		t.Errorf("%q, %v", link, err)
	}
	first, err1 := os.Stat(filepath.Join(dir, "tree/file"))
	second, err2 := os.Stat(filepath.Join(dir, "tree/sub/again"))
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(first, second) || first.Mode() != 0o640 {
		t.Errorf("%v %v, %v", first, second, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "tree/setuid")); err != nil || st.Mode() != 0o755 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// A folder that is not there becomes the source; of SRC/. the contents are copied.
	tero(t, n, 0, "cp", "box:/tmp/tree", filepath.Join(dir, "new"))
	tero(t, n, 0, "cp", "box:/tmp/tree/.", filepath.Join(dir, "new/sub"))
	tero(t, n, 0, "cp", "box:/tmp/tree/file", filepath.Join(dir, "other"))
	for _, name := range []string{"new/file", "new/sub/deep", "new/sub/file", "other"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	refused(t, n.Tero(t.Context(), "cp", "box:/tmp/tree/file", filepath.Join(dir, "none")+"/"), 127, "no such folder")
	refused(t, n.Tero(t.Context(), "cp", "box:/proc/1/environ", dir), 125, "file system of the kernel")
	if r := n.Tero(t.Context(), "cp", "box:/nothing", dir); r.Code != 127 {
		t.Errorf("%+v", r)
	}
	archive := tero(t, n, 0, "cp", "box:/tmp/tree/file", "-").Stdout
	h, err := tar.NewReader(strings.NewReader(archive)).Next()
	if err != nil || h.Name != "file" || h.Uid != 0 || h.Gid != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func copyIn(t *testing.T, n *testnode.Node) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "in/sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "in/sub/file"), []byte("of the node\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "in/sub/file"), 1234, 4321); err != nil {
		t.Fatal(err)
	}
	owner := func(name string) string {
		h, err := tar.NewReader(strings.NewReader(tero(t, n, 0, "cp", "box:"+name, "-").Stdout)).Next()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(h.Uid, ":", h.Gid)
	}
	tero(t, n, 0, "cp", filepath.Join(dir, "in"), "box:/tmp")
	if got := owner("/tmp/in/sub/file"); got != "0:0" {
		t.Errorf("owner %s", got)
	}
	tero(t, n, 0, "cp", "-a", filepath.Join(dir, "in")+"/.", "box:/tmp/kept")
	if got := owner("/tmp/kept/sub/file"); got != "1234:4321" {
		t.Errorf("owner %s", got)
	}
	refused(t, n.Tero(t.Context(), "cp", filepath.Join(dir, "in"), "box:/etc"), 125, "read-only", "--writable")
	refused(t, n.Tero(t.Context(), "cp", filepath.Join(dir, "in/sub/file"), "box:/proc/sys/kernel/hostname"), 125, "file system of the kernel")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/tmp/tree"}, {Name: "a/planted", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, n.TeroInput(t.Context(), &archive, "cp", "-", "box:/tmp/in"), 125, "links are not followed")
	if r := n.Tero(t.Context(), "cp", "box:/tmp/tree/planted", "-"); r.Code != 127 {
		t.Errorf("an entry went through a link: %+v", r)
	}
}

// copyRace copies by paths that lead through a folder which is swapped for a
// link to the root all the time: what comes is the container's or nothing, and
// nothing goes to the node's files (CVE-2018-15664).
func copyRace(t *testing.T, n *testnode.Node, outside string) {
	local := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(local, []byte("planted"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := "box:/tmp/race/swap" + outside
	seen := map[string]int{}
	for range 40 {
		r := n.Tero(t.Context(), "cp", path+"/secret", "-")
		content := "nothing"
		tr := tar.NewReader(strings.NewReader(r.Stdout))
		if _, err := tr.Next(); err == nil {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			content = string(b)
		}
		seen[content]++
		n.Tero(t.Context(), "cp", local, path)
	}
	t.Log(seen)
	if seen["outside"] > 0 {
		t.Errorf("the node's file was copied out: %v", seen)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("files of the node %v, %v", entries, err)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "outside" {
		t.Errorf("the node's file is %q, %v", b, err)
	}
}

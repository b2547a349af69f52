package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/imagetest"
)

func stage(t *testing.T, dir string, b []byte) (*Archive, error) {
	t.Helper()
	return Stage(t.Context(), bytes.NewReader(b), Config{
		Dir: dir, Limits: Limits{Bytes: 1 << 20, Entries: 20, Layers: 5},
		DiskFault: func(err error, operation string) error { return fmt.Errorf("%s: %w", operation, err) },
	})
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestImagesNames holds which images are taken under which names.
func TestImagesNames(t *testing.T) {
	layout := func(names ...string) []byte {
		l := imagetest.NewLayout(t)
		for i, n := range names {
			l.Name(l.Image(nil, imagetest.PlainLayer(imagetest.Tar(t, imagetest.Entry(fmt.Sprint(i), tar.TypeReg, "x")))), n)
		}
		return l.Pack()
	}
	for name, c := range map[string]struct {
		archive   []byte
		reference string
		want      []string // none: a fault of kind invalid
	}{
		"as the archive says":     {layout("a:1", "b:2"), "", []string{"localhost/a:1", "localhost/b:2"}},
		"one of several":          {layout("a:1", "b:2"), "b:2", []string{"localhost/b:2"}},
		"none of several":         {layout("a:1", "b:2"), "c:3", nil},
		"the only one, renamed":   {layout("a:1"), "c:3", []string{"localhost/c:3"}},
		"the only one, no name":   {layout(""), "c:3", []string{"localhost/c:3"}},
		"no name at all":          {layout(""), "", nil},
		"a tag only":              {layout("latest"), "", nil},
		"a digest":                {layout("a:1"), "a@" + string(digest.FromString("x")), nil},
		"a name that is not well": {layout("A:1"), "", nil},
		"no image":                {layout(), "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a, err := stage(t, dir, c.archive)
			if err != nil {
				t.Fatal(err)
			}
			images, _, err := a.Images(c.reference)
			if c.want == nil && fault.KindOf(err) != fault.Invalid || c.want != nil && err != nil {
				t.Errorf("error %v", err)
			}
			var got []string
			for _, img := range images {
				got = append(got, img.Reference.String())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if err := a.Remove(); err != nil {
				t.Fatal(err)
			}
			empty(t, dir)
		})
	}
}

// TestDockerArchive reads one as docker save writes it: a layer that two images
// have is a link.
func TestDockerArchive(t *testing.T) {
	one := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, runtime.GOARCH, digest.FromBytes(one))
	a, err := stage(t, t.TempDir(), imagetest.Tar(t,
		imagetest.Entry("one/layer.tar", tar.TypeReg, string(one)),
		imagetest.Entry("two/layer.tar", tar.TypeSymlink, "../one/layer.tar"),
		imagetest.Entry("config.json", tar.TypeReg, config),
		imagetest.Entry("manifest.json", tar.TypeReg,
			`[{"Config":"config.json","RepoTags":["a:1","a:2"],"Layers":["one/layer.tar"]},{"Config":"config.json","RepoTags":["b:1"],"Layers":["two/layer.tar"]}]`),
	))
	if err != nil {
		t.Fatal(err)
	}
	images, _, err := a.Images("")
	if err != nil || len(images) != 3 || images[2].Digest != images[0].Digest {
		t.Fatalf("images %+v, %v", images, err)
	}
	f, err := a.Open(images[2].Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, one) {
		t.Errorf("the layer has %d bytes, %v", len(b), err)
	}
}

func TestStageLeavesNothingOnErrors(t *testing.T) {
	for name, c := range map[string]struct {
		archive []byte
		kind    fault.Kind
	}{
		"no tar":       {bytes.Repeat([]byte("no tar "), 1000), fault.Corrupt},
		"empty":        {nil, fault.Invalid},
		"outside":      {imagetest.Tar(t, imagetest.Entry("../x", tar.TypeReg, "x")), fault.Invalid},
		"device":       {imagetest.Tar(t, imagetest.Entry("x", tar.TypeChar, "")), fault.Invalid},
		"damaged blob": {imagetest.Tar(t, imagetest.Entry("blobs/sha256/"+digest.FromString("y").Encoded(), tar.TypeReg, "x")), fault.Corrupt},
		"too large":    {imagetest.Tar(t, imagetest.Entry("x", tar.TypeReg, string(make([]byte, 1<<20)))), fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := stage(t, dir, c.archive); err == nil || fault.KindOf(err) != c.kind {
				t.Errorf("error %v, want kind %s", err, c.kind)
			}
			empty(t, dir)
		})
	}
}

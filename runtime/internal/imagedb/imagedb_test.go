package imagedb

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/manifest"
)

func open(t *testing.T) *DB {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "images.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func unused(digest.Digest) bool { return false }

func mayGo(digest.Digest) error { return nil }

// entry is an image whose manifest is content, under a name.
func entry(reference, content string) Entry {
	d := digest.FromString(content)
	return Entry{Name: Name{Reference: reference, Digest: d}, Image: manifest.Image{Digest: d, Platform: "linux/amd64"}}
}

func add(t *testing.T, db *DB, entries ...Entry) {
	t.Helper()
	if err := db.Add(entries, nil); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, s string) ocilayout.Reference {
	t.Helper()
	ref, err := ocilayout.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestLookup(t *testing.T) {
	db := open(t)
	web := entry("localhost/web:v1", "one")
	web.Name.Index = digest.FromString("index")
	add(t, db, web, entry("localhost/webb:v1", "two"))
	for in, want := range map[string]string{
		"web:v1":  "one",
		"webb:v1": "two",
		"web@" + string(digest.FromString("one")):   "one",
		"web@" + string(digest.FromString("index")): "one",
		"web:v2": "",
		"web@" + string(digest.FromString("two")): "", // of another repository, whose name begins alike
	} {
		n, img, err := db.Lookup(parse(t, in))
		switch {
		case want == "" && fault.KindOf(err) != fault.NotFound:
			t.Errorf("%s: error %v, want not found", in, err)
		case want != "" && (err != nil || img.Digest != digest.FromString(want) || n.Digest != img.Digest || n.Imported.IsZero()):
			t.Errorf("%s: %+v, %+v, %v", in, n, img, err)
		}
	}
}

func TestDropNameAndPrune(t *testing.T) {
	db := open(t)
	one, again, two := entry("localhost/a:v1", "one"), entry("localhost/a:v2", "one"), entry("localhost/b:v1", "two")
	add(t, db, one, again, two)
	used := func(digest.Digest) bool { return true }
	errUsed := errors.New("it is used")
	refuse := func(digest.Digest) error { return errUsed }
	if last, err := db.DropName(again.Name, refuse); err != nil || last {
		t.Errorf("a further name of a used image: last %v, %v", last, err)
	}
	if _, err := db.DropName(again.Name, refuse); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a name that is gone: %v", err)
	}
	if _, err := db.DropName(one.Name, refuse); !errors.Is(err, errUsed) {
		t.Errorf("the last name of a used image: %v", err)
	}
	if last, err := db.DropName(one.Name, mayGo); err != nil || !last {
		t.Errorf("the last name: last %v, %v", last, err)
	}
	if err := db.Prune(used); err != nil {
		t.Fatal(err)
	}
	if _, images, err := db.All(); err != nil || len(images) != 2 {
		t.Errorf("%d images, %v; want those that are used to stay", len(images), err)
	}
	if err := db.Prune(unused); err != nil {
		t.Fatal(err)
	}
	names, images, err := db.All()
	if err != nil || len(names) != 1 || len(images) != 1 || images[0].Digest != two.Image.Digest {
		t.Errorf("left: %+v, %+v, %v", names, images, err)
	}
}

func TestSignatures(t *testing.T) {
	db := open(t)
	key, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(content string) ocilayout.Signature {
		sig, err := ocilayout.SignDigest(key, parse(t, "a:v1"), digest.FromString(content))
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	one := entry("localhost/a:v1", "one")
	sig := sign("one")
	if err := db.Add([]Entry{one}, []ocilayout.Signature{sig, sig, sign("other"), {Payload: []byte("no claim")}}); err != nil {
		t.Fatal(err)
	}
	count := func(content string) int {
		t.Helper()
		sigs, err := db.Signatures("", digest.FromString(content))
		if err != nil {
			t.Fatal(err)
		}
		return len(sigs)
	}
	if a, b := count("one"), count("other"); a != 1 || b != 0 {
		t.Errorf("%d signatures over the image and %d over something else, want 1 and 0", a, b)
	}
	for count("one") < ocilayout.MaxSignatures {
		if err := db.AddSignature(one.Image.Digest, sign("one")); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.AddSignature(one.Image.Digest, sign("one")); fault.KindOf(err) != fault.Exhausted {
		t.Errorf("one too many: %v", err)
	}
	if _, err := db.DropName(one.Name, mayGo); err != nil {
		t.Fatal(err)
	}
	if err := db.Prune(unused); err != nil {
		t.Fatal(err)
	}
	if n := count("one"); n != 0 {
		t.Errorf("%d signatures outlived their image", n)
	}
}

func TestOpenIsForOneProcess(t *testing.T) {
	db := open(t)
	if _, err := Open(db.bolt.Path()); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
}

func TestDamagedValuesAreTold(t *testing.T) {
	db := open(t)
	one := entry("localhost/a:v1", "one")
	add(t, db, one)
	err := db.bolt.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketImages)).Put([]byte(one.Image.Digest), []byte("{"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Lookup(parse(t, "a:v1")); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("lookup: %v", err)
	}
	if _, _, err := db.All(); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("all: %v", err)
	}
}

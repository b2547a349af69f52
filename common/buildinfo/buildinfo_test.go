package buildinfo_test

import (
	"runtime"
	"testing"

	"tero.internal/common/buildinfo"
)

func TestGet(t *testing.T) {
	i := buildinfo.Get()
	if i.Version == "" || i.Version != buildinfo.Version() {
		t.Errorf("version %q, and Version gives %q", i.Version, buildinfo.Version())
	}
	if i.Go != runtime.Version() || i.Platform != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("got %+v", i)
	}
}

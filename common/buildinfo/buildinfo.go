// Package buildinfo tells which build of TERO a program is.
package buildinfo

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// version is set by the linker (see the Makefile); nothing writes it afterwards.
var version string

// Info describes a build.
type Info struct {
	// Version is the release, or what git describe says; "unversioned" for neither.
	Version string `json:"version"`
	// Revision is the commit that was built; empty outside a repository.
	Revision string `json:"revision,omitempty"`
	// Modified is true when the working tree differed from Revision.
	Modified bool `json:"modified,omitempty"`
	// Go is the toolchain.
	Go string `json:"go"`
	// Platform is GOOS/GOARCH.
	Platform string `json:"platform"`
}

// Version gives the version alone, which costs nothing.
func Version() string {
	if version == "" {
		return "unversioned"
	}
	return version
}

// Get gives all that the program knows about its build.
func Get() Info { return read() }

var read = sync.OnceValue(func() Info {
	i := Info{Version: Version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return i
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Revision = s.Value
		case "vcs.modified":
			i.Modified = s.Value == "true"
		}
	}
	return i
})

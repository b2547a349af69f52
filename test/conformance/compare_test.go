package conformance

import (
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// class is how TERO's answer relates to a peer's.
type class string

const (
	stricter  class = "stricter"
	looser    class = "looser"
	different class = "different" // neither grants more
	capable   class = "capable"   // TERO runs what the peer cannot
)

// finding is one difference.
type finding struct {
	bundle, peer, key string
	tero, theirs      string
	said              string // what who refused said
	class             class
}

// compare gives what differs between TERO's run of a bundle and a peer's.
func compare(b *bundle, peer string, tero, theirs seen) []finding {
	add := func(list []finding, key string) []finding {
		ours, other := tero[key], theirs[key]
		if ours == other || key == "said" || key == "tty.size" && other == "" {
			return list
		}
		f := finding{bundle: b.name, peer: peer, key: key, tero: ours, theirs: other, class: judge(key, ours, other)}
		if f.class == looser && b.allows(key) {
			f.class = capable // the peer's library does not know what the profile allows
		}
		return append(list, f)
	}
	if tero["outcome"] != theirs["outcome"] {
		list := add(nil, "outcome")
		list[0].said = tero["said"] + theirs["said"]
		return list
	}
	var keys []string
	for k := range tero {
		keys = append(keys, k)
	}
	for k := range theirs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var list []finding
	for _, k := range slices.Compact(keys) {
		list = add(list, k)
	}
	return list
}

// newCalls are the calls that Debian's libseccomp does not know.
func newCalls() map[string]string {
	return map[string]string{
		"call.462": "mseal", "call.463": "setxattrat", "call.464": "getxattrat", "call.465": "listxattrat", "call.466": "removexattrat",
	}
}

// allows tells whether a question is about one of the new calls, and the
// bundle's profile allows it by its name.
func (b *bundle) allows(key string) bool {
	name, ok := newCalls()[key]
	return ok && b.config.Linux.Seccomp != nil && slices.ContainsFunc(b.config.Linux.Seccomp.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name)
	})
}

// judge tells which of two answers to the same question grants more.
func judge(key, tero, theirs string) class {
	kind, _, _ := strings.Cut(key, ".")
	switch kind {
	case "outcome":
		switch "refused" {
		case tero:
			return stricter
		case theirs:
			return capable
		}
	case "cap":
		a, _ := strconv.ParseUint(tero, 16, 64)
		b, _ := strconv.ParseUint(theirs, 16, 64)
		return bySubset(a&^b == 0, b&^a == 0)
	case "status":
		if key == "status.NoNewPrivs" || key == "status.Seccomp" {
			return bySubset(tero > theirs, tero < theirs)
		}
	case "ns":
		return bySubset(tero == "own", theirs == "own")
	case "rlimit", "limit":
		return byNumbers(tero, theirs)
	case "mount":
		return judgeMount(key, tero, theirs)
	case "dev", "fd", "net", "process.others":
		return bySubset(tero == "", theirs == "")
	case "try", "verdict", "call", "open", "read", "write", "child":
		return byRefusal(kind, tero, theirs)
	}
	return different
}

func bySubset(less, more bool) class {
	switch {
	case less && !more:
		return stricter
	case more && !less:
		return looser
	}
	return different
}

// byNumbers compares lists of limits, place by place.
func byNumbers(tero, theirs string) class {
	less, more := true, true
	a, b := strings.Fields(tero), strings.Fields(theirs)
	if len(a) != len(b) {
		return different
	}
	for i := range a {
		x, y := quantity(a[i]), quantity(b[i])
		less, more = less && x <= y, more && y <= x
	}
	return bySubset(less, more)
}

func quantity(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil { // unlimited, max, -1
		return ^uint64(0)
	}
	return n
}

// restrictive are the options of a mount that take rights away.
func restrictive() []string { return []string{"ro", "nosuid", "nodev", "noexec", "nosymfollow"} }

func judgeMount(key, tero, theirs string) class {
	if tero == "" || theirs == "" {
		return different
	}
	switch {
	case strings.HasPrefix(key, "mount.options."):
		less, more := true, true
		for _, r := range restrictive() {
			a, b := slices.Contains(strings.Split(tero, ","), r), slices.Contains(strings.Split(theirs, ","), r)
			less, more = less && (a || !b), more && (b || !a)
		}
		return bySubset(less, more)
	case strings.HasPrefix(key, "mount.size."):
		return byNumbers(strings.TrimSuffix(tero, "k"), strings.TrimSuffix(theirs, "k"))
	case strings.HasPrefix(key, "mount.propagation."):
		return bySubset(tero == "", theirs == "")
	}
	return different
}

// byRefusal compares what became of an attempt. A file that is not there, or
// that is empty, gives less than one that can be opened.
func byRefusal(kind, tero, theirs string) class {
	refused := func(s string) bool {
		switch s {
		case "EPERM", "EACCES", "ENOSYS", "EROFS", "EXDEV", "empty", "killed by SIGSYS":
			return true
		case "ENOENT", "ENXIO", "EINVAL", "ENOTDIR", "ESRCH":
			return kind != "call" && kind != "child" && kind != "verdict"
		}
		return false
	}
	return bySubset(refused(tero) && !refused(theirs), refused(theirs) && !refused(tero))
}

package ociconfig

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
)

// maxID is the greatest user or group id: the kernel keeps 2^32-1 for "none".
const maxID = 1<<32 - 2

// account is a line of passwd(5).
type account struct {
	name string
	uid  uint32
	gid  uint32
	home string
}

// group is a line of group(5).
type group struct {
	name    string
	gid     uint32
	members []string
}

// identity is who the process will be.
type identity struct {
	user specs.User
	// home is the account's home folder, or "" without an account.
	home string
}

// resolveUser finds who "user[:group]" is, by the image's own passwd and group
// files (either may be empty). As everywhere else in the field, names win over
// numbers, a number needs no account, and the memberships of the account count
// only when no group is given.
func resolveUser(want, image string, passwd, groups []byte) (identity, error) {
	userPart, groupPart, hasGroup := strings.Cut(want, ":")
	if userPart == "" || hasGroup && groupPart == "" {
		return identity{}, fault.New(fault.Invalid, "user %q is not of the form user[:group]", want).
			WithHint("give names or numbers, such as --user 1000:1000 or --user nobody")
	}
	who, known := findAccount(passwd, userPart)
	if !known {
		uid, ok := parseID(userPart)
		if !ok {
			return identity{}, fault.New(fault.NotFound, "image %s has no user %q in its /etc/passwd", image, userPart).
				WithHint("give a numeric id (--user 1000), or add the user to the image")
		}
		who = account{uid: uid}
	}
	id := identity{user: specs.User{UID: who.uid, GID: who.gid}, home: who.home}
	if !hasGroup {
		if known {
			id.user.AdditionalGids = memberships(groups, who)
		}
		return id, nil
	}
	gid, ok := findGroup(groups, groupPart)
	if !ok {
		if gid, ok = parseID(groupPart); !ok {
			return identity{}, fault.New(fault.NotFound, "image %s has no group %q in its /etc/group", image, groupPart).
				WithHint("give a numeric id (--user %s:1000), or add the group to the image", userPart)
		}
	}
	id.user.GID = gid
	return id, nil
}

// parseID reads a decimal id; signs, spaces and out-of-range numbers are not ids.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= maxID
}

// findAccount finds the first account of that name, else the first of that number.
func findAccount(passwd []byte, want string) (account, bool) {
	number, isNumber := parseID(want)
	var byNumber *account
	for a := range accounts(passwd) {
		if a.name == want {
			return a, true
		}
		if isNumber && a.uid == number && byNumber == nil {
			byNumber = &a
		}
	}
	if byNumber == nil {
		return account{}, false
	}
	return *byNumber, true
}

// findGroup finds the id of the first group of that name.
func findGroup(groups []byte, want string) (uint32, bool) {
	for g := range groupLines(groups) {
		if g.name == want {
			return g.gid, true
		}
	}
	return 0, false
}

// memberships gives the ids of the groups that list the account, sorted, without its own group.
func memberships(groups []byte, who account) []uint32 {
	var ids []uint32
	for g := range groupLines(groups) {
		if g.gid != who.gid && slices.Contains(g.members, who.name) {
			ids = append(ids, g.gid)
		}
	}
	slices.SortFunc(ids, cmp.Compare[uint32])
	return slices.Compact(ids)
}

// accounts yields the well-formed lines of a passwd file.
func accounts(passwd []byte) func(yield func(account) bool) {
	return func(yield func(account) bool) {
		for line := range lines(passwd) {
			f := strings.Split(line, ":")
			if len(f) < 4 || f[0] == "" {
				continue
			}
			uid, okUID := parseID(f[2])
			gid, okGID := parseID(f[3])
			if !okUID || !okGID {
				continue
			}
			a := account{name: f[0], uid: uid, gid: gid}
			if len(f) > 5 && strings.HasPrefix(f[5], "/") {
				a.home = f[5]
			}
			if !yield(a) {
				return
			}
		}
	}
}

// groupLines yields the well-formed lines of a group file.
func groupLines(groups []byte) func(yield func(group) bool) {
	return func(yield func(group) bool) {
		for line := range lines(groups) {
			f := strings.Split(line, ":")
			if len(f) < 3 || f[0] == "" {
				continue
			}
			gid, ok := parseID(f[2])
			if !ok {
				continue
			}
			g := group{name: f[0], gid: gid}
			if len(f) > 3 && f[3] != "" {
				g.members = strings.Split(f[3], ",")
			}
			if !yield(g) {
				return
			}
		}
	}
}

// lines yields the lines that are neither empty nor comments nor hold a NUL byte.
func lines(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for l := range strings.SplitSeq(string(b), "\n") {
			l = strings.TrimSpace(l)
			if l == "" || l[0] == '#' || strings.IndexByte(l, 0) >= 0 {
				continue
			}
			if !yield(l) {
				return
			}
		}
	}
}

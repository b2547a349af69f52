package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/test/testnode"
)

// held checks that the node holds what its containers need and nothing else:
// everything that can be counted a container, after each kill. Some of it is
// removed a little later: links many in one step, processes when they are dead.
func (h *harness) held() {
	h.t.Helper()
	if err := testnode.WaitFor(h.t.Context(), func() (bool, string) {
		wrong := h.wrong()
		return wrong == "", wrong
	}); err != nil {
		h.t.Error(err)
	}
	slots := map[int]string{}
	for _, w := range h.all {
		for _, b := range w.boxes {
			r, err := h.record(b)
			if err != nil || slots[r.Slot] != "" {
				h.t.Errorf("the id range of %s: %v; %d is also that of %q", b.id, err, r.Slot, slots[r.Slot])
			}
			slots[r.Slot] = b.id
		}
	}
}

// record is what the node keeps of a container to remove it: its id range, and
// the name of its cgroup.
type record struct {
	Name string
	Slot int
}

func (h *harness) record(b *box) (r record, err error) {
	data, err := os.ReadFile(filepath.Join(h.node.RunDir(), "sandboxes", "containers", b.id, "record.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// wrong tells what the node holds too much or too little of.
func (h *harness) wrong() string {
	h.t.Helper()
	var all, connected, pids, groupNames []string
	for _, w := range h.all {
		for _, b := range w.boxes {
			all = append(all, b.id)
			if r, err := h.record(b); err == nil {
				groupNames = append(groupNames, r.Name)
			}
			if b.may == running {
				pids = append(pids, strconv.Itoa(b.pid))
			}
			if b.may == running && b.connected {
				connected = append(connected, b.id)
			}
		}
	}
	keeper := one(h.t, h.node)
	var wrong strings.Builder
	compare := func(what string, got, want []string) {
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
			fmt.Fprintf(&wrong, "%s (-want +got):\n%s", what, diff)
		}
	}
	compare("processes in cgroups", members(h.t, h.node), pids)
	compare("children of the keeper", children(h.t, keeper), pids)
	compare("folders in the state directory", folders(h.t, filepath.Join(h.node.StateDir(), "sandboxes", "containers")), all)
	compare("folders in the run directory", folders(h.t, filepath.Join(h.node.RunDir(), "sandboxes", "containers")), all)
	compare("leases", leases(h.t, h.node), connected)
	var cgroups []string // some hierarchies have only the containers that need them
	for _, parent := range groups(h.t, h.node) {
		cgroups = append(cgroups, folders(h.t, parent)...)
	}
	slices.Sort(cgroups)
	compare("cgroups", slices.Compact(cgroups), groupNames)
	if n := strings.Count(strings.Join(descriptors(h.t, keeper), " "), "net:[]"); n != len(all) {
		fmt.Fprintf(&wrong, "the keeper holds %d network namespaces for %d containers\n", n, len(all))
	}
	if links := links(h.t, h.node); len(links) != len(connected) {
		fmt.Fprintf(&wrong, "%d links for %d endpoints: %v\n", len(links), len(connected), links)
	}
	return wrong.String()
}

// snapshot is all that a node without containers holds.
type snapshot map[string][]string

// look takes a snapshot.
func look(t *testing.T, n *testnode.Node) snapshot {
	t.Helper()
	keeper := one(t, n)
	s := snapshot{
		"descriptors of the keeper": descriptors(t, keeper),
		"children of the keeper":    children(t, keeper),
		"mounts of the keeper":      mounts(t, n, keeper),
		"mounts of terod":           mounts(t, n, n.Terod()),
		"links":                     links(t, n),
		"leases":                    leases(t, n),
		"files":                     files(t, n),
	}
	table, err := n.InNetNS(t.Context(), "nft", "--stateless", "list", "table", "inet", n.Table())
	if err != nil {
		t.Fatal(err)
	}
	for what, args := range map[string][]string{"identities": {"identity", "ls", "-q"}, "containers": {"ps", "-a", "-q"}} {
		r := n.Tero(t.Context(), args...)
		if r.Code != 0 {
			t.Fatalf("tero %v: code %d: %s", args, r.Code, r.Stderr)
		}
		s[what] = slices.Collect(strings.Lines(r.Stdout))
	}
	s["nftables"] = slices.Collect(strings.Lines(table))
	for _, parent := range groups(t, n) {
		s["cgroups in "+parent] = folders(t, parent)
	}
	return s
}

// diff tells what changed.
func (s snapshot) diff(now snapshot) string { return cmp.Diff(s, now) }

// one gives the node's only keeper.
func one(t *testing.T, n *testnode.Node) int {
	t.Helper()
	keepers := n.Keepers()
	if len(keepers) != 1 {
		t.Fatalf("there are keepers %v", keepers)
	}
	return keepers[0]
}

func groups(t *testing.T, n *testnode.Node) []string {
	t.Helper()
	dirs, err := n.Cgroups()
	if err != nil || len(dirs) == 0 {
		t.Fatalf("cgroups %v, %v", dirs, err)
	}
	return dirs
}

// members gives the processes in the cgroups of containers.
func members(t *testing.T, n *testnode.Node) []string {
	t.Helper()
	var pids []string
	for _, parent := range groups(t, n) {
		for _, id := range append(folders(t, parent), "") {
			b, err := os.ReadFile(filepath.Join(parent, id, "cgroup.procs"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
				t.Fatal(err)
			}
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// children gives the processes whose parent is pid, dead ones that nobody waited for included.
func children(t *testing.T, pid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent: proc_pid_stat(5).
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if fields[1] == strconv.Itoa(pid) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

// folders gives the names of the folders in dir.
func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

var numbers = regexp.MustCompile(`[0-9]+`)

// descriptors gives what a process has open, without the numbers of inodes.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil {
			all = append(all, numbers.ReplaceAllString(target, ""))
		}
	}
	slices.Sort(all)
	return all
}

// links gives the links in the node's network namespace that lead into containers.
func links(t *testing.T, n *testnode.Node) []string {
	t.Helper()
	out, err := n.InNetNS(t.Context(), "ip", "-o", "link", "show", "type", "veth")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(out))
}

// leases gives the containers that hold an address, by the journal of leases.
func leases(t *testing.T, n *testnode.Node) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.StateDir(), "network", "leases-default"))
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{}
	for line := range bytes.Lines(b) {
		var l struct{ Address, Owner string }
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("leases: %v: %s", err, line)
		}
		owners[l.Address] = l.Owner
	}
	var ids []string
	for _, o := range owners {
		if o != "" {
			id, _, _ := strings.Cut(o, "/")
			ids = append(ids, id)
		}
	}
	return ids
}

// mounts gives the mounts of the node that a process sees.
func mounts(t *testing.T, n *testnode.Node, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, n.Base()+"/") {
			all = append(all, line)
		}
	}
	return all
}

// files gives the names of all files that the node keeps.
func files(t *testing.T, n *testnode.Node) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{n.StateDir(), n.RunDir()} {
		if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			all = append(all, path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/ociconfig"
)

// The host ids of the peers' containers.
const (
	peerFirstID = 1_900_000_000
	peerIDs     = 65536
)

// peerCgroup is the cgroup above those of the peers' containers.
const peerCgroup = "/tero-bench-peer"

// peers start containers with the runtimes that TERO is compared with, from
// bundles with the very configuration that TERO applies. Debian's crun refuses
// hosts with hybrid cgroups, so all of them run in mount namespaces of their own
// in which v2 is unmounted: those of threads that all starts come from, so that
// no start pays for it.
type peers struct {
	dir  string
	work chan func()
	next atomic.Int64
}

// newPeers makes the root file system in dir around a static program, and as
// many threads as containers are started at a time.
func newPeers(dir, program string, threads int) (*peers, error) {
	p := &peers{dir: dir, work: make(chan func())}
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	// The folders that the configuration mounts on; a read-only rootfs must have them.
	for _, d := range []string{"", "proc", "dev", "sys", "tmp", "run", "etc"} {
		d = filepath.Join(p.rootfs(), d)
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Lchown(d, peerFirstID, peerFirstID)); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(p.rootfs(), "true")
	if err := errors.Join(os.WriteFile(file, binary, 0o755), os.Lchown(file, peerFirstID, peerFirstID)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.state(), 0o700); err != nil {
		return nil, err
	}
	if err := mountMemory(p.state()); err != nil {
		return nil, err
	}
	// Not the host's /dev/null: crun makes its standard input the container's user's.
	if err := unix.Mknod(p.null(), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return nil, fmt.Errorf("make a null device: %w", err)
	}
	ready := make(chan error, threads)
	for range threads {
		go p.serve(ready)
	}
	for range threads {
		err = errors.Join(err, <-ready)
	}
	return p, err
}

func (p *peers) rootfs() string { return filepath.Join(p.dir, "rootfs") }

// state is where the peers keep what they know of containers: in memory, as /run is.
func (p *peers) state() string { return filepath.Join(p.dir, "state") }

func (p *peers) null() string { return filepath.Join(p.dir, "null") }

// serve works in a mount namespace of its own until close.
func (p *peers) serve(ready chan<- error) {
	runtime.LockOSThread() // and never unlocked: the namespace goes with the thread
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	const unified = "/sys/fs/cgroup/unified"
	if _, statErr := os.Stat(unified); err == nil && statErr == nil {
		err = unix.Unmount(unified, 0)
	}
	ready <- err
	for f := range p.work {
		f()
	}
}

// start is one prepared start of an OCI runtime.
type start struct {
	runtime, bundle, id string
}

// prepare readies a start, outside of what is measured: a bundle with TERO's
// configuration and what a start adds to it.
func (p *peers) prepare(runtime string) (*start, error) {
	s := &start{runtime: runtime, id: fmt.Sprintf("bench-%d-%d", os.Getpid(), p.next.Add(1))}
	s.bundle = filepath.Join(p.dir, s.id)
	spec, err := (workload.Spec{Name: "true", Network: workload.NetworkNone, Image: "true:v1", Args: []string{"/true"}}).
		Complete(workload.Image{Reference: "localhost/true:v1"})
	if err != nil {
		return nil, err
	}
	config, err := ociconfig.Build(spec, workload.Image{Reference: "localhost/true:v1"})
	if err != nil {
		return nil, err
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: peerFirstID, Size: peerIDs}}
	config.Linux.UIDMappings, config.Linux.GIDMappings = ids, ids
	config.Version = "1.0.2" // Debian's crun knows no newer one; nothing newer is used
	config.Root.Path = p.rootfs()
	config.Linux.CgroupsPath = filepath.Join(peerCgroup, s.id)
	b, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.bundle, 0o755); err != nil {
		return nil, err
	}
	return s, os.WriteFile(filepath.Join(s.bundle, "config.json"), b, 0o600)
}

// run starts the prepared container and waits for its end.
func (p *peers) run(ctx context.Context, s *start) error {
	state := filepath.Join(p.state(), filepath.Base(s.runtime))
	args := []string{"--root", state, "run", "--bundle", s.bundle, s.id}
	if filepath.Base(s.runtime) != "runc" { // whose default it is
		args = append([]string{"--cgroup-manager", "cgroupfs"}, args...)
	}
	return p.command(ctx, s.runtime, args...)
}

// podman runs the program with podman, from a root file system of its own.
func (p *peers) podman(ctx context.Context) error {
	return p.command(ctx, "podman", "--root", filepath.Join(p.dir, "podman"), "--runroot", filepath.Join(p.state(), "podman"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "crun", "--events-backend", "none",
		"run", "--rm", "--network", "none", "--cgroup-parent", peerCgroup, "--cgroups", "no-conmon", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--uidmap", "0:"+strconv.Itoa(peerFirstID)+":"+strconv.Itoa(peerIDs), "--rootfs", p.rootfs(), "/true")
}

// command runs a command to its end, on one of the threads.
func (p *peers) command(ctx context.Context, name string, args ...string) error {
	done := make(chan error, 1)
	p.work <- func() { done <- p.execute(ctx, name, args) }
	return <-done
}

func (p *peers) execute(ctx context.Context, name string, args []string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	null, err := os.Open(p.null())
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, &out, &out
	if err := errors.Join(cmd.Run(), null.Close()); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out.String())
	}
	return nil
}

// close removes what the peers leave: the cgroups above their containers' own.
func (p *peers) close() error {
	close(p.work)
	if err := unix.Unmount(p.state(), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", p.state(), err)
	}
	parents, err := filepath.Glob("/sys/fs/cgroup/*" + peerCgroup)
	if err != nil {
		return err
	}
	for _, parent := range append(parents, "/sys/fs/cgroup"+peerCgroup) {
		children, _ := filepath.Glob(parent + "/*")
		for _, dir := range append(children, parent) {
			if st, e := os.Stat(dir); e != nil || !st.IsDir() {
				continue
			}
			if e := removeCgroup(dir); e != nil {
				err = errors.Join(err, fmt.Errorf("remove %s: %w", dir, e))
			}
		}
	}
	return err
}

// removeCgroup removes a cgroup, when the last process of it has gone.
func removeCgroup(dir string) error {
	for range 100 {
		err := unix.Rmdir(dir)
		if !errors.Is(err, unix.EBUSY) {
			if errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
	return unix.EBUSY
}

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

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/ociconfig"
)

// The host ids of the peer's containers.
const (
	peerFirstID = 1_900_000_000
	peerIDs     = 65536
)

// peerCgroup is the cgroup above those of the peer's containers.
const peerCgroup = "/tero-bench-crun"

// crun starts containers with crun, from a bundle with the very configuration
// that TERO applies. Debian's crun refuses hosts with hybrid cgroups, so it runs
// in a mount namespace of its own in which v2 is unmounted: that of a thread
// which all starts come from, so that no start pays for it.
type crun struct {
	bundle string
	work   chan func()
	next   int
}

// newCrun makes the bundle in dir around a static program.
func newCrun(dir, program string) (*crun, error) {
	if _, err := exec.LookPath("crun"); err != nil {
		return nil, fmt.Errorf("the peer is missing (make deps installs it): %w", err)
	}
	c := &crun{bundle: filepath.Join(dir, "bundle"), work: make(chan func())}
	rootfs := filepath.Join(c.bundle, "rootfs")
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	// The folders that the configuration mounts on; a read-only rootfs must have them.
	for _, d := range []string{"", "proc", "dev", "sys", "tmp", "run"} {
		d = filepath.Join(rootfs, d)
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Lchown(d, peerFirstID, peerFirstID)); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(rootfs, "true")
	if err := errors.Join(os.WriteFile(file, binary, 0o755), os.Lchown(file, peerFirstID, peerFirstID)); err != nil {
		return nil, err
	}
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return nil, fmt.Errorf("make a null device: %w", err)
	}
	ready := make(chan error, 1)
	go c.serve(ready)
	return c, <-ready
}

// serve works in a mount namespace of its own until close.
func (c *crun) serve(ready chan<- error) {
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
	for f := range c.work {
		f()
	}
}

// configure writes config.json for one start: TERO's, with what a start adds.
func (c *crun) configure(id string) error {
	spec, err := (workload.Spec{Name: "true", Network: workload.NetworkNone, Image: "true:v1", Args: []string{"/true"}}).
		Complete(workload.Image{Reference: "localhost/true:v1"})
	if err != nil {
		return err
	}
	config, err := ociconfig.Build(spec, workload.Image{Reference: "localhost/true:v1"})
	if err != nil {
		return err
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: peerFirstID, Size: peerIDs}}
	config.Linux.UIDMappings, config.Linux.GIDMappings = ids, ids
	config.Version = "1.0.2" // Debian's crun knows no newer one; nothing newer is used
	config.Linux.CgroupsPath = filepath.Join(peerCgroup, id)
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.bundle, "config.json"), b, 0o600)
}

// prepare readies the next start, outside of what is measured.
func (c *crun) prepare() error {
	c.next++
	return c.configure(c.id())
}

func (c *crun) id() string { return "bench-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(c.next) }

// run starts the prepared container and waits for its end.
func (c *crun) run(ctx context.Context) error {
	done := make(chan error, 1)
	c.work <- func() {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, "crun", "--root", filepath.Join(filepath.Dir(c.bundle), "crun"), "--cgroup-manager", "cgroupfs", "run", "--bundle", c.bundle, c.id())
		// Not the host's /dev/null: crun makes its standard input the container's user's.
		null, err := os.Open(filepath.Join(filepath.Dir(c.bundle), "null"))
		if err != nil {
			done <- err
			return
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = null, &out, &out
		err = errors.Join(cmd.Run(), null.Close())
		if err != nil {
			err = fmt.Errorf("crun run: %w: %s", err, out.String())
		}
		done <- err
	}
	return <-done
}

// close removes what crun leaves: the cgroup above its containers' own.
func (c *crun) close() error {
	close(c.work)
	parents, err := filepath.Glob("/sys/fs/cgroup/*" + peerCgroup)
	if err != nil {
		return err
	}
	for _, p := range append(parents, "/sys/fs/cgroup"+peerCgroup) {
		if e := unix.Rmdir(p); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", p, e))
		}
	}
	return err
}

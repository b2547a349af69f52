package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// peerIDs is how many ids a peer's containers have.
const peerIDs = 65536

// peer runs bundles with a command that has runc's interface.
type peer struct {
	command string
	layer   string // what the root file system is copied from
	dir     string
	firstID int    // of the host's ids of its containers
	parent  string // the cgroup above those of its containers
	next    atomic.Int32
	work    chan func()
}

func (p *peer) name() string { return p.command }

// newPeer makes a peer. Debian's crun refuses hosts with hybrid cgroups, so the
// commands run in mount namespaces of their own in which v2 is unmounted: those
// of threads which all starts come from.
func newPeer(t *testing.T, command string, firstID int, dir, layer string) *peer {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		t.Fatalf("the peer is missing (make deps installs it): %v", err)
	}
	p := &peer{
		command: command, firstID: firstID, layer: layer, dir: filepath.Join(dir, command), work: make(chan func()),
		parent: "/tero-test-" + command + "-" + strconv.Itoa(os.Getpid()),
	}
	if err := errors.Join(os.Mkdir(p.dir, 0o755), unix.Mknod(filepath.Join(p.dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	for range runtime.NumCPU() {
		ready := make(chan error, 1)
		go p.serve(ready)
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		close(p.work)
		parents, err := filepath.Glob("/sys/fs/cgroup/*" + p.parent)
		if err != nil {
			t.Error(err)
		}
		for _, dir := range append(parents, "/sys/fs/cgroup"+p.parent) {
			left, _ := filepath.Glob(filepath.Join(dir, p.command+"-*")) // of runs that failed
			for _, l := range left {
				_ = unix.Rmdir(l)
			}
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Errorf("remove %s: %v", dir, err)
			}
		}
	})
	return p
}

// serve works in a mount namespace of its own until the end.
func (p *peer) serve(ready chan<- error) {
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
	if err != nil {
		return
	}
	for f := range p.work {
		f()
	}
}

func (p *peer) run(ctx context.Context, b *bundle) (v seen, err error) {
	id := p.command + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(int(p.next.Add(1)))
	dir := filepath.Join(p.dir, id)
	if err := p.makeBundle(dir, id, b.config); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	p.work <- func() {
		defer close(done)
		v, err = p.start(ctx, dir, id, b)
		// Runs that failed may leave things behind; that is theirs to remove.
		_ = exec.CommandContext(context.WithoutCancel(ctx), p.command, "--root", filepath.Join(p.dir, "state"), "delete", "--force", id).Run()
	}
	<-done
	return v, errors.Join(err, os.RemoveAll(dir))
}

// makeBundle writes config.json, with what a start adds, and the root file system.
func (p *peer) makeBundle(dir, id string, config *specs.Spec) error {
	rootfs := filepath.Join(dir, "rootfs")
	err := filepath.WalkDir(p.layer, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(p.layer, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(rootfs, rest), d, p.firstID)
	})
	if err != nil {
		return err
	}
	c := *config
	linux := *c.Linux
	c.Linux = &linux
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(p.firstID), Size: peerIDs}}
	linux.UIDMappings, linux.GIDMappings = ids, ids
	linux.CgroupsPath = filepath.Join(p.parent, id)
	if c.Root.Path == "" {
		c.Root = &specs.Root{Path: "rootfs", Readonly: c.Root.Readonly}
	}
	text, err := json.Marshal(&c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// copyEntry copies a file, folder or link for an owner.
func copyEntry(from, to string, d fs.DirEntry, owner int) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		err = os.MkdirAll(to, 0o755)
	case d.Type() == fs.ModeSymlink:
		var link string
		if link, err = os.Readlink(from); err == nil {
			err = os.Symlink(link, to)
		}
	default:
		var b []byte
		if b, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
	}
	err = errors.Join(err, os.Lchown(to, owner, owner))
	if err == nil && d.Type() != fs.ModeSymlink {
		err = os.Chmod(to, info.Mode())
	}
	return err
}

// start runs the command to its end.
func (p *peer) start(ctx context.Context, dir, id string, b *bundle) (seen, error) {
	pidFile := filepath.Join(dir, "pid")
	cmd := exec.CommandContext(ctx, p.command, "--root", filepath.Join(p.dir, "state"), "run", "--pid-file", pidFile, "--bundle", dir, id)
	cmd.WaitDelay = hang
	var said bytes.Buffer
	cmd.Stderr = &said
	// Not the host's /dev/null: crun makes its standard input the container's user's.
	null, err := os.Open(filepath.Join(p.dir, "null"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	cmd.Stdin = null
	out, theirs, err := stream(cmd, b.config.Process.Terminal)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	v := seen{}
	read := bufio.NewReader(out)
	line, readErr := read.ReadBytes('\n')
	if b.hold() && readErr == nil {
		pid, err := readPID(ctx, pidFile)
		if err == nil {
			err = errors.Join(v.cgroup(pid), unix.Kill(pid, unix.SIGTERM))
		}
		if err != nil {
			return nil, errors.Join(err, cmd.Process.Kill())
		}
	}
	rest, _ := io.ReadAll(read) // ends with EIO on a terminal
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	line = append(line, rest...)
	v["said"] = strings.TrimSpace(said.String())
	if cmd.ProcessState.ExitCode() != 0 && len(bytes.TrimSpace(line)) == 0 && !b.silent {
		return seen{"outcome": "refused", "said": v["said"]}, nil
	}
	err = v.end(cmd.ProcessState.ExitCode(), line)
	if p.command == "runc" {
		delete(v, "tty.size") // set some time after the start
	}
	return v, err
}

// stream gives the command standard streams, and the end where its output comes out.
func stream(cmd *exec.Cmd, terminal bool) (ours, theirs *os.File, err error) {
	if !terminal {
		ours, theirs, err = os.Pipe()
		cmd.Stdout = theirs
		return ours, theirs, err
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	cmd.Stdin, cmd.Stdout = theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return master, theirs, nil
}

// readPID reads the file that the command writes some time after the start.
func readPID(ctx context.Context, path string) (int, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return n, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("no process id: %w", ctx.Err())
		}
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tero.internal/test/testnode"
)

// theirsIdle measures the processes that the peers keep beside each container.
func theirsIdle(ctx context.Context, dir, program string) (all []usage, err error) {
	p, err := newPeers(dir, program, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, measured := range []func(context.Context) (usage, error){p.conmons, p.shims} {
		u, err := measured(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// conmons measures conmon, which Podman and CRI-O start for each container,
// around crun as they do.
func (p *peers) conmons(ctx context.Context) (u usage, err error) {
	crun, err := exec.LookPath("crun")
	if err != nil {
		return u, err
	}
	root := filepath.Join(p.dir, "conmon")
	if err := os.MkdirAll(filepath.Join(root, "exits"), 0o700); err != nil {
		return u, err
	}
	var pids []int
	defer func() { err = errors.Join(err, gone(context.WithoutCancel(ctx), pids)) }()
	for range peerContainers {
		s, err := p.prepare("crun")
		if err != nil {
			return u, err
		}
		pidFile := filepath.Join(s.bundle, "conmon.pid")
		if err := p.command(ctx, "conmon", "--api-version", "1", "-c", s.id, "-u", s.id, "-r", crun, "-b", s.bundle,
			"--persist-dir", s.bundle, "--exit-dir", filepath.Join(root, "exits"), "--full-attach", "-l", "k8s-file:"+filepath.Join(s.bundle, "log"),
			"-p", filepath.Join(s.bundle, "pid"), "-P", pidFile,
			"--runtime-arg", "--root="+root, "--runtime-arg", "--cgroup-manager=cgroupfs"); err != nil {
			return u, err
		}
		defer func() {
			err = errors.Join(err, p.command(context.WithoutCancel(ctx), crun, "--root="+root, "--cgroup-manager=cgroupfs", "delete", "--force", s.id))
		}()
		// conmon lets its caller go before the container is there.
		if err := testnode.WaitFor(ctx, func() (bool, string) {
			err := p.command(ctx, crun, "--root="+root, "--cgroup-manager=cgroupfs", "start", s.id)
			return err == nil, fmt.Sprint(err)
		}); err != nil {
			return u, err
		}
		pid, err := readPID(pidFile)
		if err != nil {
			return u, err
		}
		pids = append(pids, pid)
	}
	return mean("conmon", pids)
}

// shims measures containerd-shim-runc-v2, of a containerd with folders of its own.
func (p *peers) shims(ctx context.Context) (u usage, err error) {
	root := filepath.Join(p.dir, "containerd")
	socket := filepath.Join(root, "sock")
	config := filepath.Join(root, "config.toml")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return u, err
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
`, filepath.Join(root, "root"), filepath.Join(root, "state"), socket), 0o600); err != nil {
		return u, err
	}
	var said bytes.Buffer
	daemon := exec.CommandContext(ctx, "containerd", "--config", config)
	daemon.Stdout, daemon.Stderr = &said, &said
	started := make(chan error, 1)
	p.work <- func() { started <- daemon.Start() } // where v2 cgroups are unmounted
	if err := <-started; err != nil {
		return u, fmt.Errorf("containerd: %w", err)
	}
	defer func() {
		_ = daemon.Process.Kill() // its state is removed with dir
		_ = daemon.Wait()
	}()
	ctr := func(ctx context.Context, args ...string) error {
		return p.command(ctx, "ctr", append([]string{"--address", socket, "--namespace", "bench"}, args...)...)
	}
	if err := testnode.WaitFor(ctx, func() (bool, string) {
		err := ctr(ctx, "version")
		return err == nil, fmt.Sprint("containerd does not answer: ", err)
	}); err != nil {
		return u, err
	}
	var pids []int
	defer func() { err = errors.Join(err, gone(context.WithoutCancel(ctx), pids)) }()
	for i := range peerContainers {
		id := fmt.Sprintf("bench-%d-shim-%d", os.Getpid(), i)
		if err := ctr(ctx, "run", "--detach", "--read-only", "--cgroup", filepath.Join(peerCgroup, id), "--rootfs", p.rootfs(), id, "/true"); err != nil {
			return u, err
		}
		defer func() {
			clean := context.WithoutCancel(ctx)
			err = errors.Join(err, ctr(clean, "task", "rm", "--force", id), ctr(clean, "container", "rm", id))
		}()
	}
	if pids, err = shimsOf(socket); err != nil {
		return u, err
	}
	if len(pids) != peerContainers {
		return u, fmt.Errorf("%d shims for %d containers", len(pids), peerContainers)
	}
	return mean("containerd-shim", pids)
}

// shimsOf finds the shims of a containerd, by its socket in their command lines.
func shimsOf(socket string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		if strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && strings.Contains(string(line), socket) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// mean gives the mean memory of processes of which each container has one.
func mean(name string, pids []int) (usage, error) {
	u := usage{name: name, containers: len(pids)}
	for _, pid := range pids {
		bytes, err := testnode.PSS(pid)
		if err != nil {
			return u, err
		}
		u.bytes += float64(bytes) / float64(len(pids))
	}
	return u, nil
}

// gone waits until processes have ended.
func gone(ctx context.Context, pids []int) error {
	return testnode.WaitFor(ctx, func() (bool, string) {
		for _, pid := range pids {
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				return false, fmt.Sprintf("process %d has not ended", pid)
			}
		}
		return true, ""
	})
}

func readPID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

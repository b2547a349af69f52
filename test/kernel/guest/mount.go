package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is a file system to mount.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// early is what loading modules and finding the disk needs.
func early() []mount {
	return []mount{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
		{"proc", "/proc", "proc", quiet, ""},
		{"sysfs", "/sys", "sysfs", quiet, ""},
	}
}

// late is what a machine with systemd has besides. All controllers are on cgroup v2.
func late() []mount {
	return []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", quiet, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"securityfs", "/sys/kernel/security", "securityfs", quiet, ""},
		{"bpf", "/sys/fs/bpf", "bpf", quiet, "mode=700"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, ""},
	}
}

func mountAll(list []mount) error {
	for _, m := range list {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

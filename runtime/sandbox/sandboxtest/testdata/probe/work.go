package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"
)

// work does what ordinary programs do in the folders that may be written, and
// tells what did not work.
func work(dirs []string) {
	failed := 0
	must := func(what string, err error) {
		if err != nil {
			failed++
			fmt.Println(what+":", err)
		}
	}
	for _, dir := range dirs {
		must("files in "+dir, files(dir))
	}
	for _, name := range []string{"/dev/null", "/dev/stdout", "/dev/stderr"} {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		must("open "+name, err)
		must("write "+name, func() error { _, err := f.Write(nil); return errors.Join(err, f.Close()) }())
	}
	for _, name := range []string{"/dev/stdin", "/dev/urandom", "/dev/zero", "/proc/self/exe", "/proc/self/fd/1"} {
		f, err := os.Open(name)
		must("open "+name, err)
		f.Close()
	}
	must("write to /proc", os.WriteFile("/proc/self/oom_score_adj", []byte("100"), 0o600))
	must("execute", func() error {
		p, err := os.StartProcess("/proc/self/exe", []string{"/probe", "true"}, &os.ProcAttr{})
		if err != nil {
			return err
		}
		_, err = p.Wait()
		return err
	}())
	must("message queue", queue())
	must("memory file", memory())
	must("own children", func() error { _, err := os.ReadFile("/proc/self/environ"); return err }())
	fmt.Println("failed", failed)
}

// files makes, changes, moves and removes each kind of file that needs no privilege.
func files(dir string) (err error) {
	try := func(what string, f func() error) {
		if err == nil {
			if e := f(); e != nil {
				err = fmt.Errorf("%s: %w", what, e)
			}
		}
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	try("mkdir", func() error { return os.Mkdir(a, 0o700) })
	try("mkdir", func() error { return os.Mkdir(b, 0o700) })
	try("create", func() error { return os.WriteFile(filepath.Join(a, "f"), []byte("x"), 0o600) })
	try("truncate", func() error { return os.Truncate(filepath.Join(a, "f"), 0) })
	try("append", func() error {
		f, err := os.OpenFile(filepath.Join(a, "f"), os.O_APPEND|os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})
	try("rename", func() error { return os.Rename(filepath.Join(a, "f"), filepath.Join(b, "f")) })
	try("link", func() error { return os.Link(filepath.Join(b, "f"), filepath.Join(a, "l")) })
	try("symlink", func() error { return os.Symlink("f", filepath.Join(b, "s")) })
	try("fifo", func() error { return syscall.Mkfifo(filepath.Join(b, "p"), 0o600) })
	try("socket", func() error {
		l, err := net.Listen("unix", filepath.Join(b, "u"))
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("unix", filepath.Join(b, "u"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	try("list", func() error { _, err := os.ReadDir(b); return err })
	try("remove", func() error { return errors.Join(os.RemoveAll(a), os.RemoveAll(b)) })
	return err
}

func queue() error {
	name, _ := syscall.BytePtrFromString("probe")
	fd, _, errno := syscall.Syscall6(240, uintptr(unsafe.Pointer(name)), syscall.O_CREAT|syscall.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return syscall.Close(int(fd))
}

func memory() error {
	name, _ := syscall.BytePtrFromString("probe")
	fd, _, errno := syscall.Syscall(319, uintptr(unsafe.Pointer(name)), 0, 0)
	if errno != 0 {
		return errno
	}
	defer syscall.Close(int(fd))
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(fd)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(10), f.Close())
}

// receive waits on a socket for a descriptor that leaks in, and reaches beyond it.
func receive(socket, path string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	control := make([]byte, 64)
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		fmt.Println(err)
		return
	}
	messages, _ := syscall.ParseSocketControlMessage(control[:n])
	fds, _ := syscall.ParseUnixRights(&messages[0])
	reach(fds[0], path)
}

// reach opens paths below a folder of the host that it should not have.
func reach(folder int, paths ...string) {
	for _, path := range paths {
		fd, err := syscall.Openat(folder, path, syscall.O_RDONLY, 0)
		fmt.Println("reached", path+":", err)
		if err == nil {
			syscall.Close(fd)
		}
	}
}

// feed lets a child eat all memory, which the kernel is to kill and not this.
func feed() {
	cmd := exec.Command("/probe", "eat")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0o600) // the child's, too
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0o600)
		err = cmd.Wait()
	}
	fmt.Println("child:", err)
	os.Exit(3)
}

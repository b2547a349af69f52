// probe is the only program in the test images: it looks at its sandbox from
// the inside, or does what the test asks.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "true":
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "stderr":
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	case "cat":
		scan := bufio.NewScanner(os.Stdin)
		for scan.Scan() {
			fmt.Println(scan.Text())
		}
		fmt.Println("end")
	case "print":
		for _, name := range args {
			b, err := os.ReadFile(name)
			if err != nil {
				fmt.Println("error", err)
				continue
			}
			os.Stdout.Write(b)
		}
	case "note": // adds a line to a file and prints the file
		f, err := os.OpenFile(args[0], os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Fprintln(f, args[1])
		f.Close()
		b, _ := os.ReadFile(args[0])
		os.Stdout.Write(b)
	case "touch":
		for _, name := range args {
			fmt.Println(name, outcome(os.WriteFile(name, []byte("touched"), 0o644)))
		}
	case "stat":
		for _, name := range args {
			var st syscall.Stat_t
			if err := syscall.Stat(name, &st); err != nil {
				fmt.Println(name, err)
				continue
			}
			fmt.Printf("%s %o %d:%d %d\n", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		}
	case "open":
		for _, name := range args {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			fmt.Println(name, outcome(err))
			if err == nil {
				f.Close()
			}
		}
	case "run":
		p, err := os.StartProcess(args[0], args, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
		if err == nil {
			_, err = p.Wait()
		}
		fmt.Println(outcome(err))
	case "swap":
		swap(args[0], args[1])
	case "wait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("waiting")
		<-c
		fmt.Println("terminated")
		os.Exit(7)
	case "hold":
		fmt.Println("holding")
		for {
			time.Sleep(time.Hour)
		}
	case "ticks":
		n, _ := strconv.Atoi(args[0])
		every, _ := time.ParseDuration(args[1])
		for i := range n {
			fmt.Println("tick", i)
			time.Sleep(every)
		}
		os.Exit(3)
	case "flood":
		n, _ := strconv.Atoi(args[0])
		w := bufio.NewWriterSize(os.Stdout, 1<<16)
		for i := range n {
			fmt.Fprintf(w, "line %09d\n", i)
		}
		w.Flush()
	case "eat":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			_ = all
		}
	case "feed":
		feed()
	case "fork":
		n, _ := strconv.Atoi(args[0])
		made := 0
		for range n {
			_, err := os.StartProcess("/probe", []string{"/probe", "hold"}, &os.ProcAttr{})
			if err != nil {
				fmt.Println("refused after", made, err)
				return
			}
			made++
		}
		fmt.Println("made", made)
	case "look":
		look()
	case "try":
		try()
	case "work":
		work(args)
	case "receive":
		receive(args[0], args[1])
	case "reach":
		reach(0, args...)
	case "attack":
		attack(args[0])
	case "guard":
		guard()
	case "size":
		fmt.Println(size())
	}
}

func outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}

// swap makes a name a folder and a link to somewhere else in turns, for ever.
func swap(name, target string) {
	_ = os.Mkdir(name, 0o755)
	_ = os.Symlink(target, name+".link")
	fmt.Println("swapping")
	const exchange = 2 // RENAME_EXCHANGE
	a, _ := syscall.BytePtrFromString(name)
	b, _ := syscall.BytePtrFromString(name + ".link")
	cwd := -100
	for {
		_, _, e := syscall.RawSyscall6(316, uintptr(cwd), uintptr(unsafe.Pointer(a)), uintptr(cwd), uintptr(unsafe.Pointer(b)), exchange, 0)
		if e != 0 {
			fmt.Println("swap:", e)
			return
		}
	}
}

// view is what a process sees of its sandbox.
type view struct {
	Status     map[string]string
	Namespaces map[string]string
	UIDMap     string
	Hostname   string
	Cwd        string
	Env        []string
	Mounts     []string
	Dev        []string
	FDs        []string
	Procs      []string
	Links      []string
	Limits     string
	Cgroup     string
	TTY        bool
	Umask      int
	Session    bool
}

func look() {
	v := view{Status: map[string]string{}, Namespaces: map[string]string{}, Env: os.Environ()}
	for _, line := range lines("/proc/self/status") {
		k, val, _ := strings.Cut(line, ":")
		v.Status[k] = strings.TrimSpace(val)
	}
	for _, ns := range names("/proc/self/ns") {
		v.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	b, _ := os.ReadFile("/proc/self/uid_map")
	v.UIDMap = strings.Join(strings.Fields(string(b)), " ")
	v.Hostname, _ = os.Hostname()
	v.Cwd, _ = os.Getwd()
	v.Mounts = lines("/proc/self/mountinfo")
	v.Dev = names("/dev")
	for _, fd := range names("/proc/self/fd") {
		to, err := os.Readlink("/proc/self/fd/" + fd)
		if err == nil {
			v.FDs = append(v.FDs, fd+" "+to)
		}
	}
	for _, p := range names("/proc") {
		if _, err := strconv.Atoi(p); err == nil {
			v.Procs = append(v.Procs, p)
		}
	}
	v.Links = names("/sys/class/net")
	v.Limits = strings.Join(lines("/proc/self/limits"), "\n")
	v.Cgroup = strings.Join(lines("/proc/self/cgroup"), "\n")
	_, err := os.Stat("/dev/console")
	v.TTY = err == nil
	v.Umask = syscall.Umask(0)
	sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	v.Session = int(sid) == os.Getpid()
	_ = json.NewEncoder(os.Stdout).Encode(v)
}

// try does what must be refused, and tells the results.
func try() {
	out := map[string]string{}
	report := func(name string, err error) {
		out[name] = "done"
		if err != nil {
			out[name] = err.Error()
		}
	}
	report("write root", os.WriteFile("/file", nil, 0o600))
	report("write tmp", os.WriteFile("/tmp/file", []byte("x"), 0o600))
	report("write dev null", os.WriteFile("/dev/null", []byte("x"), 0o600))
	report("write stdout", os.WriteFile("/dev/stderr", []byte("x"), 0o600))
	report("write sysctl", os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0o600))
	report("write hosts", os.WriteFile("/etc/hosts", []byte("x"), 0o600))
	report("write sysrq", os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0o600))
	report("mount", syscall.Mount("none", "/tmp", "tmpfs", 0, ""))
	report("mknod", syscall.Mknod("/tmp/node", syscall.S_IFBLK|0o600, 0x0800))
	report("mknod null", syscall.Mknod("/tmp/null", syscall.S_IFCHR|0o600, 0x0103))
	report("unshare", syscall.Unshare(syscall.CLONE_NEWUSER))
	report("setuid", func() error {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETUID, 1, 0, 0)
		if e != 0 {
			return e
		}
		return nil
	}())
	report("reboot", syscall.Reboot(syscall.LINUX_REBOOT_CMD_CAD_OFF))
	report("keyctl", errnoOf(250, 0))
	report("bpf", errnoOf(321, 0))
	report("unknown", errnoOf(1500, 0))
	report("raw socket", func() error {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, 1)
		if err == nil {
			syscall.Close(fd)
		}
		return err
	}())
	if b, err := os.ReadFile("/proc/kcore"); err == nil && len(b) > 0 {
		out["kcore read"] = fmt.Sprint(len(b))
	}
	out["firmware"] = strings.Join(names("/sys/firmware"), ",")
	out["interrupts"] = strings.Join(lines("/proc/interrupts"), ",")
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

func errnoOf(nr uintptr, a uintptr) error {
	_, _, e := syscall.RawSyscall(nr, a, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, filepath.Base(e.Name()))
	}
	return list
}

func lines(name string) []string {
	b, _ := os.ReadFile(name)
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}

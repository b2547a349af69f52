package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func look(paths []string) view {
	v := brief(paths)
	v.calls()
	return v
}

func brief(paths []string) view {
	v := view{"probe": "here"}
	v.identity()
	v.process()
	v.limits()
	v.mounts()
	v.devices()
	v.descriptors()
	v.network()
	v.sysctls()
	for _, p := range paths {
		v.access(p)
	}
	for _, l := range lines("/proc/keys") {
		if f := strings.Fields(l); len(f) > 8 {
			name, _, _ := strings.Cut(strings.TrimSuffix(f[8], ":"), ".")
			v["key."+f[7]+" "+name] = f[4]
		}
	}
	v.attempts()
	return v
}

func (v view) identity() {
	status := map[string]string{}
	for _, l := range lines("/proc/self/status") {
		k, val, _ := strings.Cut(l, ":")
		status[k] = strings.Join(strings.Fields(val), " ")
	}
	for _, k := range []string{"Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "NSpid"} {
		v["status."+k] = status[k]
	}
	for _, k := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		v["cap."+k] = status[k]
	}
	for _, k := range []string{"SigBlk", "SigIgn"} {
		v["signal."+k] = status[k]
	}
	for _, f := range []string{"uid_map", "gid_map"} {
		v["ids."+f] = strings.Join(strings.Fields(strings.Join(lines("/proc/self/"+f), " ")), " ")
	}
	v["ids.setgroups"] = strings.Join(lines("/proc/self/setgroups"), " ")
	for _, n := range names("/proc/self/ns") {
		v["ns."+n], _ = os.Readlink("/proc/self/ns/" + n)
	}
	for i, l := range lines("/proc/self/cgroup") {
		f := strings.SplitN(l, ":", 3)
		if len(f) == 3 {
			v["cgroup.path."+f[1]] = f[2]
		} else {
			v["cgroup.path."+strconv.Itoa(i)] = l
		}
	}
}

func (v view) process() {
	old := syscall.Umask(0)
	syscall.Umask(old)
	v["process.umask"] = fmt.Sprintf("%04o", old)
	v["process.cwd"], _ = os.Getwd()
	if link, err := os.Readlink("/proc/self/cwd"); err == nil {
		v["process.cwd.link"] = link
	}
	v["process.exe"], _ = os.Readlink("/proc/self/exe")
	v["process.args"] = strings.Join(os.Args, "|")
	for _, e := range os.Environ() {
		k, val, _ := strings.Cut(e, "=")
		if len(val) > 100 {
			val = fmt.Sprintf("%d bytes", len(val))
		}
		v["env."+k] = val
	}
	v["process.pid"], v["process.ppid"] = strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid())
	sid, _ := raw(syscall.SYS_GETSID, 0)
	pgid, _ := raw(syscall.SYS_GETPGID, 0)
	v["process.session"] = fmt.Sprint("sid ", sid, " pgid ", pgid)
	v["process.others"] = strings.Join(numbers("/proc"), ",")
	nice, _ := raw(syscall.SYS_GETPRIORITY, 0, 0)
	v["process.nice"] = fmt.Sprint(20 - int(nice))
	policy, _ := raw(syscall.SYS_SCHED_GETSCHEDULER, 0)
	v["process.scheduler"] = fmt.Sprint(policy)
	io, _ := raw(252, 1, 0) // ioprio_get
	v["process.ioprio"] = fmt.Sprint(io>>13, "/", io&0x1fff)
	v["process.personality"] = strings.Join(lines("/proc/self/personality"), " ")
	for k, f := range map[string]string{
		"process.oom_score_adj": "oom_score_adj", "process.coredump_filter": "coredump_filter",
		"process.loginuid": "loginuid",
	} {
		v[k] = strings.Join(lines("/proc/self/"+f), " ")
	}
	for k, op := range map[string]uintptr{
		"process.dumpable": 3, "process.keepcaps": 7, "process.securebits": 27, "process.subreaper": 0, "process.thp_disable": 42,
		"process.timerslack": 30,
	} {
		if op != 0 {
			r, e := raw(syscall.SYS_PRCTL, op)
			v[k] = answer(r, e)
		}
	}
	v["host.name"], _ = os.Hostname()
	v["host.domain"] = strings.Join(lines("/proc/sys/kernel/domainname"), " ")
	_, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	v["tty.controlling"] = said(err)
	if rows, err := size(); err == nil {
		v["tty.size"] = rows
	}
}

func (v view) limits() {
	for i, name := range []string{
		"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
		"MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
	} {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(i, &l); err != nil {
			v["rlimit."+name] = err.Error()
			continue
		}
		v["rlimit."+name] = limit(l.Cur) + " " + limit(l.Max)
	}
	// The Go runtime raises the soft limit of open files before main.
	for _, l := range lines("/proc/self/limits") {
		if rest, ok := strings.CutPrefix(l, "Max open files"); ok {
			v["rlimit.NOFILE"] = strings.Join(strings.Fields(rest)[1:2], " ") + " hard"
		}
	}
}

func limit(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// mounts tells of each mount point its uppermost mount.
func (v view) mounts() {
	for _, l := range lines("/proc/self/mountinfo") {
		before, after, _ := strings.Cut(l, " - ")
		f, rest := strings.Fields(before), strings.Fields(after)
		if len(f) < 6 || len(rest) < 3 {
			v["mount.broken"] = l
			continue
		}
		options := strings.Split(f[5], ",")
		slices.Sort(options)
		point := f[4]
		v["mount.options."+point] = strings.Join(options, ",")
		v["mount.type."+point] = rest[0]
		v["mount.propagation."+point] = strings.Join(f[6:], " ")
		var st syscall.Statfs_t
		if rest[0] == "tmpfs" && syscall.Statfs(point, &st) == nil {
			v["mount.size."+point] = strconv.FormatUint(st.Blocks*uint64(st.Bsize)/1024, 10) + "k"
		}
		if fi, err := os.Stat(point); err == nil && fi.IsDir() {
			v["mount.mode."+point] = owner(fi)
		}
	}
}

func owner(fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%v %d:%d", fi.Mode(), st.Uid, st.Gid)
}

// devices tells what is in /dev.
func (v view) devices() {
	for _, n := range names("/dev") {
		path := filepath.Join("/dev", n)
		if to, err := os.Readlink(path); err == nil {
			v["dev."+n] = "-> " + to
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			v["dev."+n] = err.Error()
			continue
		}
		st := fi.Sys().(*syscall.Stat_t)
		v["dev."+n] = fmt.Sprintf("%v %d:%d", fi.Mode(), st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00)
		v["owner.dev."+n] = fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	for _, n := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"} {
		f, err := os.OpenFile("/dev/"+n, os.O_RDWR, 0)
		if err == nil && n != "ptmx" && n != "tty" {
			_, err = f.Read(make([]byte, 1))
			if err != nil && err.Error() == "EOF" {
				err = nil
			}
		}
		if err == nil {
			_ = f.Close()
		}
		v["open.dev."+n] = said(err)
	}
}

// descriptors tells what is open; what the Go runtime opened is its own.
func (v view) descriptors() {
	for _, n := range numbers("/proc/self/fd") {
		to, err := os.Readlink("/proc/self/fd/" + n)
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(to, "/proc/") {
			continue
		}
		kind, _, _ := strings.Cut(to, ":[")
		var st syscall.Stat_t
		if err := syscall.Stat("/proc/self/fd/"+n, &st); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0x103 {
			kind = "null" // by whatever name
		}
		if strings.HasPrefix(to, "/dev/pts/") {
			kind = "terminal"
		}
		v["fd."+n] = kind
	}
	for _, n := range []string{"stdin", "stdout", "stderr"} {
		flags := os.O_WRONLY
		if n == "stdin" {
			flags = os.O_RDONLY
		}
		f, err := os.OpenFile("/dev/"+n, flags|syscall.O_NONBLOCK, 0)
		if err == nil {
			_ = f.Close()
		}
		v["open."+n] = said(err)
	}
}

func (v view) network() {
	list, err := net.Interfaces()
	if err != nil {
		v["net.links"] = said(err)
	}
	for _, i := range list {
		v["net.link."+i.Name] = i.Flags.String()
	}
}

func (v view) sysctls() {
	for _, n := range []string{
		"kernel/msgmax", "kernel/shm_rmid_forced", "kernel/shmmax", "fs/mqueue/msg_max", "net/ipv4/ip_forward",
		"net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range", "net/core/somaxconn", "kernel/domainname",
	} {
		b, err := os.ReadFile("/proc/sys/" + n)
		v["sysctl."+n] = strings.Join(strings.Fields(string(b)), " ")
		if err != nil {
			v["sysctl."+n] = said(err)
		}
	}
}

// access tries to list or read a path, and to open it for writing.
func (v view) access(path string) {
	fi, err := os.Stat(path)
	if err != nil {
		v["read."+path] = said(err)
		return
	}
	v["mode."+path] = owner(fi)
	if fi.IsDir() {
		entries, err := os.ReadDir(path)
		v["read."+path] = "entries"
		if len(entries) == 0 {
			v["read."+path] = "empty"
		}
		if err != nil {
			v["read."+path] = said(err)
		}
		// A name of its own: others may be in the same folder of the host.
		name := filepath.Join(path, "probe-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		v["write."+path] = said(os.WriteFile(name, nil, 0o600))
		_ = os.Remove(name)
		return
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	v["read."+path] = said(err)
	if err == nil {
		n, _ := f.Read(make([]byte, 64))
		if n == 0 {
			v["read."+path] = "empty"
		}
		_ = f.Close()
	}
	f, err = os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		_ = f.Close()
	}
	v["write."+path] = said(err)
}

// said gives an error's number, or "done".
func said(err error) string {
	if err == nil {
		return "done"
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		return errnoName(e)
	}
	return err.Error()
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func numbers(dir string) []string {
	var list []string
	for _, n := range names(dir) {
		if _, err := strconv.Atoi(n); err == nil {
			list = append(list, n)
		}
	}
	return list
}

func lines(name string) []string {
	b, err := os.ReadFile(name)
	if err != nil {
		return []string{said(err)}
	}
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}

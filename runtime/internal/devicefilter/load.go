package devicefilter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kept is how many programs are kept loaded; a node uses one or two.
const kept = 16

// Filters attaches filters. A program is loaded once for all cgroups with the
// same rules: loading takes half a millisecond, attaching a tenth of that. The
// zero value is ready.
type Filters struct {
	mu   sync.Mutex // guards list
	list []loaded
}

type loaded struct {
	code    []byte
	program *os.File
}

// Attach puts the processes of a cgroup under the rules, as long as it exists.
func (f *Filters) Attach(cgroup string, rules []specs.LinuxDeviceCgroup) error {
	parsed, err := parse(rules)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock() // held on: what is attached must not be closed meanwhile
	program, err := f.load(encode(compile(parsed)))
	if err != nil {
		return err
	}
	return onCgroup(cgroup, func(fd int) error { return attach(fd, program) })
}

// load gives the program with this code. The caller holds mu.
func (f *Filters) load(code []byte) (*os.File, error) {
	for _, l := range f.list {
		if bytes.Equal(l.code, code) {
			return l.program, nil
		}
	}
	program, err := load(code)
	if err != nil {
		return nil, err
	}
	if len(f.list) == kept {
		_ = f.list[0].program.Close() // cgroups hold on to what is attached to them
		f.list = slices.Delete(f.list, 0, 1)
	}
	f.list = append(f.list, loaded{code, program})
	return program, nil
}

// Close lets go of the programs. What is attached stays.
func (f *Filters) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.list {
		_ = l.program.Close()
	}
	f.list = nil
}

// Try tells whether filters can be attached to cgroups below this one: it
// attaches one that allows everything, and takes it away again.
func Try(cgroup string) error {
	program, err := load(encode(compile([]rule{{allow: true, kind: -1, major: -1, minor: -1, access: accessAll}})))
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	return onCgroup(cgroup, func(fd int) error {
		if err := attach(fd, program); err != nil {
			return err
		}
		return detach(fd, program)
	})
}

// onCgroup runs f with a descriptor of a cgroup.
func onCgroup(dir string, f func(fd int) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if err := f(fd); err != nil {
		return fmt.Errorf("filter the devices of cgroup %s: %w", dir, err)
	}
	return nil
}

// loadAttributes is the part of union bpf_attr for BPF_PROG_LOAD.
type loadAttributes struct {
	programType, count   uint32
	code, license        uint64
	logLevel, logSize    uint32
	log                  uint64
	kernelVersion, flags uint32
	name                 [16]byte
	ifindex, attachType  uint32
}

// attachAttributes is the part of union bpf_attr for BPF_PROG_ATTACH and BPF_PROG_DETACH.
type attachAttributes struct {
	target, program, attachType, flags, replace uint32
}

// load loads a program; what the verifier does not take it says why.
func load(code []byte) (*os.File, error) {
	license := []byte("MIT\x00")
	log := make([]byte, 1<<16)
	a := loadAttributes{
		programType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8), //nolint:gosec // some hundred
		attachType: unix.BPF_CGROUP_DEVICE,
	}
	copy(a.name[:], "tero_devices")
	var pin runtime.Pinner
	defer pin.Unpin()
	address := func(b []byte) uint64 {
		p := unsafe.SliceData(b) //nolint:gosec // for the next line
		pin.Pin(p)
		return uint64(uintptr(unsafe.Pointer(p))) //nolint:gosec // bpf(2) takes addresses as numbers
	}
	a.code, a.license = address(code), address(license)
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&a), unsafe.Sizeof(a)) //nolint:gosec // bpf(2) takes a pointer
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) {
		a.logLevel, a.logSize, a.log = 1, uint32(len(log)), address(log)        //nolint:gosec // 64 KiB
		fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&a), unsafe.Sizeof(a)) //nolint:gosec // as above
	}
	if err != nil {
		if words := strings.TrimSpace(unix.ByteSliceToString(log)); words != "" {
			return nil, fmt.Errorf("load a device filter: %w (%s)", err, words)
		}
		return nil, fmt.Errorf("load a device filter: %w", err)
	}
	return os.NewFile(uintptr(fd), "device filter"), nil
}

func attach(cgroup int, program *os.File) error {
	a := attachAttributes{
		target: uint32(cgroup), program: uint32(program.Fd()), attachType: unix.BPF_CGROUP_DEVICE, //nolint:gosec // descriptors
		flags: unix.BPF_F_ALLOW_MULTI, // beside those of the host's, all of which must agree
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a)) //nolint:gosec // bpf(2) takes a pointer
	return err
}

func detach(cgroup int, program *os.File) error {
	a := attachAttributes{target: uint32(cgroup), program: uint32(program.Fd()), attachType: unix.BPF_CGROUP_DEVICE} //nolint:gosec // descriptors
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&a), unsafe.Sizeof(a))                                        //nolint:gosec // bpf(2) takes a pointer
	return err
}

func bpf(command int, attributes unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attributes), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN: // the verifier was interrupted
		default:
			return -1, errno
		}
	}
}

package spawn

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
)

// region is memory that a process shares with the child that it clones next,
// and with nobody else. It begins with all that the child touches; the second
// program, its instructions and then its data, is put behind that when it comes.
// Until then it takes no memory.
type region struct {
	child
	codeLength, dataLength uint64 // how many instructions, how many bytes
}

const (
	headerSize      = unsafe.Sizeof(region{})
	instructionSize = unsafe.Sizeof(program.Instruction{})
	// regionSize has room for every program: in memory an instruction takes 80
	// bytes instead of the 72 that it has encoded.
	regionSize = 2 * program.MaxSize
)

// newRegion maps a region.
func newRegion() (*region, error) {
	p, err := unix.MmapPtr(-1, 0, nil, regionSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*region)(p), nil
}

// lay lays out what the child touches; status is its descriptor of the socket.
func (r *region) lay(spec *Spec, status int) error {
	c := &r.child
	c.region, c.status, c.kept = r, uintptr(status), uint32(unix.ENOENT)
	c.point()
	keep := []int{status}
	if len(spec.Files) > maxFiles {
		return fmt.Errorf("%d files are more than the %d that a process can have", len(spec.Files), maxFiles)
	}
	if spec.Program != nil {
		c.gated = true
		for i, fd := range spec.Files {
			c.files.fds[i] = int32(fd) //nolint:gosec // a descriptor
			if spec.Program.Refers(i) {
				keep = append(keep, fd)
			}
		}
		if err := r.put(spec.Program, statusFD, [program.OwnFiles]int{-1, -1, -1, -1, -1}); err != nil {
			return err
		}
	}
	list := gaps(keep)
	if len(list) > maxGaps {
		return fmt.Errorf("%d files are too many for a first program", len(keep))
	}
	copy(c.gaps[:], list)
	return nil
}

// hide keeps the region from the children that are cloned from now on.
func (r *region) hide() error {
	return os.NewSyscallError("madvise", unix.Madvise(unsafe.Slice((*byte)(unsafe.Pointer(r)), regionSize), unix.MADV_DONTFORK)) //nolint:gosec // the whole mapping
}

// unmap gives the region back; the child keeps its own mapping of it.
func (r *region) unmap() {
	_ = unix.MunmapPtr(unsafe.Pointer(r), regionSize) //nolint:gosec // what newRegion mapped
}

// put links the program for its place in the region and copies it there.
func (r *region) put(p *program.Program, status int, own [program.OwnFiles]int) error {
	r.codeLength, r.dataLength = uint64(len(p.Code)), uint64(len(p.Data))
	code, data := r.program()
	if err := p.Link(uintptr(unsafe.Pointer(unsafe.SliceData(data))), status, own); err != nil { //nolint:gosec // where the child sees it
		return err
	}
	copy(code, p.Code)
	copy(data, p.Data)
	return nil
}

// program gives what put put. The child calls it too.
//
//go:norace
//go:nosplit
func (r *region) program() ([]program.Instruction, []byte) {
	code := unsafe.Add(unsafe.Pointer(r), headerSize) //nolint:gosec // within the mapping
	data := unsafe.Add(code, uintptr(r.codeLength)*instructionSize)
	return unsafe.Slice((*program.Instruction)(code), r.codeLength), unsafe.Slice((*byte)(data), r.dataLength) //nolint:gosec // within the mapping
}

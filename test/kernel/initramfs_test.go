package kernel

import (
	"bytes"
	"fmt"
)

// archive is a cpio archive as the kernel unpacks it before it starts /init
// ("newc", see Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	bytes.Buffer
	inode int
}

const (
	modeFolder  = 0o040755
	modeProgram = 0o100755
	modeDevice  = 0o020600
)

func (a *archive) folder(name string) { a.entry(name, modeFolder, 0, 0, nil) }

func (a *archive) file(name string, content []byte) { a.entry(name, modeProgram, 0, 0, content) }

// device adds a character device.
func (a *archive) device(name string, major, minor int) { a.entry(name, modeDevice, major, minor, nil) }

// end adds the entry that ends every archive.
func (a *archive) end() { a.entry("TRAILER!!!", 0, 0, 0, nil) }

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(content)
	a.pad()
}

// pad aligns to four bytes.
func (a *archive) pad() { a.Write(make([]byte, (4-a.Len()%4)%4)) }

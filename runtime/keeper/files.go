package keeper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
)

// readProgram reads the program that came as a memory file, and checks it
// against the files that came with it.
func readProgram(req *protocol.Request, files []int) (*program.Program, error) {
	if req.Program == protocol.None {
		return nil, fmt.Errorf("%w: the program is missing", protocol.ErrMalformed)
	}
	fd := files[req.Program]
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size <= 0 || st.Size > program.MaxSize {
		return nil, fmt.Errorf("program of %d bytes", st.Size)
	}
	b := make([]byte, st.Size)
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], int64(at))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("read program at %d: %w", at, err)
		}
		at += n
	}
	return program.Decode(b, int(req.Program))
}

// pipe gives a pipe whose ends both block.
func pipe() ([2]int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return p, os.NewSyscallError("pipe2", err)
	}
	return p, nil
}

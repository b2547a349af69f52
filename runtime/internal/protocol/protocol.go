// Package protocol is what terod and the keeper say to each other: one message
// a packet on a SOCK_SEQPACKET unix socket, files as SCM_RIGHTS. Requests carry
// a number that their reply repeats; many may be under way at a time.
package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Version is raised when the two sides of a change could misunderstand each other.
const Version = 3

// Op is what a request asks for.
type Op uint16

// The requests.
const (
	// OpHello must be the first; the reply's PID is the keeper's own.
	OpHello Op = iota + 1
	// OpPrepare clones a process that runs Program and waits: a container that
	// lacks only what is its own. ID is its name until OpStart. Number is the
	// keeper's descriptor of its network namespace, File its user namespace.
	OpPrepare
	// OpStart sends a prepared process, From, the program that makes it the
	// container ID; the reply comes when the payload executes.
	OpStart
	// OpSignal sends Number to the first process (or, with Token, to one of OpExec).
	OpSignal
	// OpWait is answered when the process has ended.
	OpWait
	// OpList gives all containers, or with ID that one if there is one.
	OpList
	// OpExec clones a process into a container; the reply comes when it
	// executes, Token names it, File is its terminal if it has one.
	OpExec
	// OpInput gives the write end of standard input, or the terminal.
	OpInput
	// OpCloseInput closes the keeper's write end of standard input.
	OpCloseInput
	// OpForget kills what is left of a container, or of the prepared process
	// From, and forgets it; WrongPhase while OpPrepare is under way.
	OpForget
	// OpShutdown ends the keeper, unless it has containers.
	OpShutdown
)

// Flags of OpStart and OpExec.
const (
	// FlagTerminal says that the program sends the master of a terminal with its ready report.
	FlagTerminal = 1 << iota
	// FlagInput asks for a pipe as standard input, /dev/null otherwise.
	FlagInput
	// FlagStdio says that the last three files are standard input, output and error (OpExec).
	FlagStdio
)

// Rlimit is a resource limit set from outside, by the keeper.
type Rlimit struct {
	Resource   uint32
	Soft, Hard uint64
}

// None is the index of a file that is not there.
const None = -1

// Request is what terod sends.
type Request struct {
	Op    Op
	Seq   uint32
	ID    string
	From  string
	Token uint32
	Flags uint32
	// Number is a signal (OpSignal) or Version (OpHello).
	Number int32
	// HostID is what id 0 is outside, Size how many ids follow.
	HostID, Size uint32
	// CloneFlags are the namespaces to make.
	CloneFlags uint64
	// UID and GID own the standard streams, in the host's numbers.
	UID, GID uint32
	Rlimits  []Rlimit
	// LogSize and LogFiles bound the container's log: bytes a file, and how many
	// files; no bound when LogSize is 0.
	LogSize  int64
	LogFiles uint32
	// Program, Folder, OOM and Cgroup are indexes of files, or None: the
	// program, the container's folder, the file that counts kills for lack of
	// memory, the cgroup v2 folder to be born in. A program's own files come
	// before these.
	Program, Folder, OOM, Cgroup int32
}

// ErrorCode is why a request failed.
type ErrorCode uint16

// The error codes.
const (
	OK ErrorCode = iota
	// Internal is a failure of the keeper; Text says what.
	Internal
	// Unknown is a container or token that the keeper does not have.
	Unknown
	// WrongPhase is a request that the container's phase forbids.
	WrongPhase
	// Step is a failed instruction: At and Errno.
	Step
	// Died is a child that ended before it could report.
	Died
	// Clone is a failed clone3: Errno.
	Clone
)

// Phase is how far a container has come.
type Phase uint8

// The phases.
const (
	// Prepared processes are not named after a container yet.
	Prepared Phase = iota + 1
	Running
	Exited
)

// Exit is how a process ended.
type Exit struct {
	Code   int32
	Signal int32
	OOM    bool
	// At is in nanoseconds since 1970.
	At int64
}

// Status is one container.
type Status struct {
	ID    string
	Phase Phase
	PID   int32
	Exit  Exit
}

// Reply is what the keeper sends.
type Reply struct {
	Seq    uint32
	Code   ErrorCode
	Text   string
	At     uint32
	Errno  unix.Errno
	PID    int32
	Number int32
	Token  uint32
	Exit   Exit
	// More says that further Statuses follow in another reply of the same Seq.
	More     bool
	Statuses []Status
}

// MaxMessage bounds a packet; MaxFiles the files with it.
const (
	MaxMessage = 64 << 10
	MaxFiles   = 200
	// MaxStatuses is how many fit a packet.
	MaxStatuses = 512
)

// ErrMalformed is what the errors of decoding wrap.
var ErrMalformed = errors.New("malformed message")

// Encode gives the request's bytes.
func (r *Request) Encode() []byte {
	var e encoder
	e.u16(uint16(r.Op))
	e.u32(r.Seq)
	e.str(r.ID)
	e.str(r.From)
	e.u32(r.Token)
	e.u32(r.Flags)
	e.i32(r.Number)
	e.u32(r.HostID)
	e.u32(r.Size)
	e.u64(r.CloneFlags)
	e.u32(r.UID)
	e.u32(r.GID)
	e.u16(uint16(len(r.Rlimits))) //nolint:gosec // 16 kinds of limits
	for _, l := range r.Rlimits {
		e.u32(l.Resource)
		e.u64(l.Soft)
		e.u64(l.Hard)
	}
	e.u64(uint64(r.LogSize)) //nolint:gosec // two's complement, undone by DecodeRequest
	e.u32(r.LogFiles)
	for _, i := range []int32{r.Program, r.Folder, r.OOM, r.Cgroup} {
		e.i32(i)
	}
	return e.b
}

// DecodeRequest reads a request that came with files files.
func DecodeRequest(b []byte, files int) (*Request, error) {
	d := decoder{b: b}
	r := &Request{
		Op: Op(d.u16()), Seq: d.u32(), ID: d.str(), From: d.str(), Token: d.u32(), Flags: d.u32(), Number: d.i32(),
		HostID: d.u32(), Size: d.u32(), CloneFlags: d.u64(), UID: d.u32(), GID: d.u32(),
	}
	for range min(int(d.u16()), 64) {
		r.Rlimits = append(r.Rlimits, Rlimit{d.u32(), d.u64(), d.u64()})
	}
	r.LogSize, r.LogFiles = int64(d.u64()), d.u32() //nolint:gosec // two's complement
	for _, i := range []*int32{&r.Program, &r.Folder, &r.OOM, &r.Cgroup} {
		if *i = d.i32(); *i < None || int(*i) >= files {
			d.bad = true
		}
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: request", ErrMalformed)
	}
	return r, nil
}

// Encode gives the reply's bytes.
func (r *Reply) Encode() []byte {
	var e encoder
	e.u32(r.Seq)
	e.u16(uint16(r.Code))
	e.str(r.Text)
	e.u32(r.At)
	e.u32(uint32(r.Errno)) //nolint:gosec // small
	e.i32(r.PID)
	e.i32(r.Number)
	e.u32(r.Token)
	e.exit(r.Exit)
	e.bool(r.More)
	e.u16(uint16(len(r.Statuses))) //nolint:gosec // at most MaxStatuses
	for _, s := range r.Statuses {
		e.str(s.ID)
		e.u16(uint16(s.Phase))
		e.i32(s.PID)
		e.exit(s.Exit)
	}
	return e.b
}

// DecodeReply reads a reply.
func DecodeReply(b []byte) (*Reply, error) {
	d := decoder{b: b}
	r := &Reply{
		Seq: d.u32(), Code: ErrorCode(d.u16()), Text: d.str(), At: d.u32(), Errno: unix.Errno(d.u32()),
		PID: d.i32(), Number: d.i32(), Token: d.u32(), Exit: d.exit(), More: d.bool(),
	}
	for range min(int(d.u16()), MaxStatuses) {
		r.Statuses = append(r.Statuses, Status{ID: d.str(), Phase: Phase(d.u16()), PID: d.i32(), Exit: d.exit()}) //nolint:gosec // a phase
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: reply", ErrMalformed)
	}
	return r, nil
}

type encoder struct{ b []byte }

func (e *encoder) u16(v uint16) { e.b = binary.LittleEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) i32(v int32)  { e.u32(uint32(v)) } //nolint:gosec // two's complement, undone by decoder.i32

func (e *encoder) str(s string) {
	s = s[:min(len(s), 4096)]
	e.u16(uint16(len(s))) //nolint:gosec // bounded above
	e.b = append(e.b, s...)
}

func (e *encoder) bool(v bool) {
	if v {
		e.u16(1)
	} else {
		e.u16(0)
	}
}

func (e *encoder) exit(x Exit) {
	e.i32(x.Code)
	e.i32(x.Signal)
	e.bool(x.OOM)
	e.u64(uint64(x.At)) //nolint:gosec // two's complement, undone by decoder.exit
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || len(d.b) < n {
		d.bad = true
		return make([]byte, n)
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }
func (d *decoder) i32() int32  { return int32(d.u32()) } //nolint:gosec // two's complement
func (d *decoder) str() string { return string(d.take(int(d.u16()))) }
func (d *decoder) bool() bool  { return d.u16() != 0 }

func (d *decoder) exit() Exit {
	return Exit{Code: d.i32(), Signal: d.i32(), OOM: d.bool(), At: int64(d.u64())} //nolint:gosec // two's complement
}

// Send sends one packet with files. It gives os.ErrClosed for a socket that is closed meanwhile.
func Send(socket *os.File, message []byte, files []int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.EINTR
		for errors.Is(sent, unix.EINTR) {
			sent = unix.Sendmsg(int(fd), message, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(closed(err), sent)
}

// closed makes an error of waiting for a socket recognizable: a raw connection
// gives one that is not os.ErrClosed when its file is closed.
func closed(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", os.ErrClosed, err)
}

// Receive receives one packet into buf. It gives 0 bytes at the end.
func Receive(socket *os.File, buf []byte) (n int, files []int, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	var oobn, flags int
	var received error
	err = raw.Read(func(fd uintptr) bool {
		received = unix.EINTR
		for errors.Is(received, unix.EINTR) {
			n, oobn, flags, _, received = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		}
		return !errors.Is(received, unix.EAGAIN)
	})
	if err = errors.Join(closed(err), received); err != nil {
		return 0, nil, err
	}
	files, err = rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("%w: cut short", ErrMalformed)
	}
	if err != nil {
		CloseAll(files)
		return 0, nil, err
	}
	return n, files, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var files []int
	for i := range messages {
		if messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		files = append(files, fds...)
	}
	return files, nil
}

// CloseAll closes descriptors.
func CloseAll(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd)
	}
}

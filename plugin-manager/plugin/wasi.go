package plugin

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// The errors of WASI preview 1 that are used here.
const (
	wasiOK     = 0
	wasiBadF   = 8
	wasiInval  = 28
	wasiNoSys  = 52
	clockStep  = 1000 // virtual nanoseconds that pass between two looks at the clock
	clockStart = 1_600_000_000_000_000_000
)

// errMemory stops a guest whose pointer is wrong.
var errMemory = errors.New("pointer is outside of the memory")

// wasiFunctions are what languages' runtimes import from WASI preview 1: no
// files, arguments, environment or sockets; a clock that advances by being
// looked at (fast enough for Go's garbage collector, which a clock of 1 ms a
// look starves); random numbers that are the same for every instance; and
// output that goes to the log, if that is granted.
func wasiFunctions() map[string]hostFunction {
	fs := map[string]hostFunction{}
	add := func(name, params string, run func(context.Context, *use, api.Memory, []uint64)) {
		f := hostFunction{results: []api.ValueType{i32}, run: run}
		for _, c := range params {
			t := i32
			if c == 'l' {
				t = i64
			}
			f.params = append(f.params, t)
		}
		fs[name] = f
	}
	none := func(_ context.Context, _ *use, _ api.Memory, stack []uint64) { stack[0] = wasiOK }
	add("args_get", "ii", none)
	add("environ_get", "ii", none)
	add("args_sizes_get", "ii", wasiNone)
	add("environ_sizes_get", "ii", wasiNone)
	add("sched_yield", "", none)
	add("clock_time_get", "ili", wasiClock)
	add("clock_res_get", "ii", func(_ context.Context, _ *use, m api.Memory, stack []uint64) {
		write64(m, uint32(stack[1]), clockStep) //nolint:gosec // an i32
		stack[0] = wasiOK
	})
	add("random_get", "ii", wasiRandom)
	add("fd_write", "iiii", wasiWrite)
	add("poll_oneoff", "iiii", wasiPoll)
	for name, params := range map[string]string{
		"fd_close": "i", "fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii", "fd_prestat_get": "ii", "fd_prestat_dir_name": "iii",
		"fd_read": "iiii", "fd_seek": "ilii", "fd_pread": "iiili", "fd_pwrite": "iiili", "fd_readdir": "iiili", "fd_filestat_get": "ii",
		"fd_filestat_set_size": "il", "fd_filestat_set_times": "illi", "fd_sync": "i", "fd_datasync": "i", "fd_tell": "ii", "fd_advise": "illi",
		"fd_allocate": "ill", "fd_renumber": "ii", "path_open": "iiiiillii", "path_filestat_get": "iiiii", "path_filestat_set_times": "iiiilli",
		"path_create_directory": "iii", "path_remove_directory": "iii", "path_unlink_file": "iii", "path_rename": "iiiiii",
		"path_link": "iiiiiii", "path_symlink": "iiiii", "path_readlink": "iiiiii",
	} {
		add(name, params, func(_ context.Context, _ *use, _ api.Memory, stack []uint64) { stack[0] = wasiBadF })
	}
	for name, params := range map[string]string{"sock_accept": "iii", "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii", "proc_raise": "i"} {
		add(name, params, func(_ context.Context, _ *use, _ api.Memory, stack []uint64) { stack[0] = wasiNoSys })
	}
	fs["proc_exit"] = hostFunction{params: []api.ValueType{i32}, run: func(_ context.Context, _ *use, _ api.Memory, stack []uint64) {
		panic(sys.NewExitError(uint32(stack[0]))) //nolint:gosec // an i32
	}}
	return fs
}

// wasiNone writes two counts of zero.
func wasiNone(_ context.Context, _ *use, m api.Memory, stack []uint64) {
	write32(m, uint32(stack[0]), 0) //nolint:gosec // an i32
	write32(m, uint32(stack[1]), 0) //nolint:gosec // an i32
	stack[0] = wasiOK
}

func wasiClock(_ context.Context, u *use, m api.Memory, stack []uint64) {
	u.i.clock += clockStep
	now := u.i.clock
	if uint32(stack[0]) == 0 { //nolint:gosec // an i32: the real-time clock
		now += clockStart
	}
	write64(m, uint32(stack[2]), now) //nolint:gosec // an i32
	stack[0] = wasiOK
}

func wasiRandom(ctx context.Context, u *use, m api.Memory, stack []uint64) {
	b, ok := m.Read(uint32(stack[0]), uint32(stack[1])) //nolint:gosec // two i32
	if !ok {
		panic(errMemory)
	}
	u.charge(ctx, int64(len(b))/8)
	_, _ = u.i.random.Read(b) // never fails
	stack[0] = wasiOK
}

// wasiWrite takes what goes to standard output and error.
func wasiWrite(ctx context.Context, u *use, m api.Memory, stack []uint64) {
	fd, vectors, n := uint32(stack[0]), uint32(stack[1]), uint32(stack[2]) //nolint:gosec // three i32
	if fd != 1 && fd != 2 {
		stack[0] = wasiBadF
		return
	}
	if n > 1024 {
		stack[0] = wasiInval
		return
	}
	var written uint32
	for k := range n {
		u.charge(ctx, 1)
		at, size := read32(m, vectors+8*k), read32(m, vectors+8*k+4)
		if u.p.canLog {
			u.output(ctx, slog.LevelWarn, m, at, size)
		}
		written += size
	}
	write32(m, uint32(stack[3]), written) //nolint:gosec // an i32
	stack[0] = wasiOK
}

// The layout of subscriptions and events (WASI preview 1, poll_oneoff).
const (
	subscriptionSize = 48
	eventSize        = 32
)

// wasiPoll lets every timer expire at once, by moving the clock; there is
// nothing else to wait for.
func wasiPoll(ctx context.Context, u *use, m api.Memory, stack []uint64) {
	in, out, n := uint32(stack[0]), uint32(stack[1]), uint32(stack[2]) //nolint:gosec // three i32
	if n == 0 || n > 1024 {
		stack[0] = wasiInval
		return
	}
	for k := range n {
		u.charge(ctx, 1)
		s, e := in+k*subscriptionSize, out+k*eventSize
		kind := read32(m, s+8) & 0xff
		code := uint32(wasiBadF)
		if kind == 0 { // a clock
			code = wasiOK
			wake := read64(m, s+24)
			if read32(m, s+40)&1 != 0 { // an absolute time
				if read32(m, s+16) == 0 {
					wake -= min(wake, clockStart)
				}
				u.i.clock = max(u.i.clock, wake)
			} else {
				u.i.clock += wake
			}
		}
		write64(m, e, read64(m, s)) // user data
		write64(m, e+8, uint64(code|kind<<16))
		write64(m, e+16, 0)
		write64(m, e+24, 0)
	}
	write32(m, uint32(stack[3]), n) //nolint:gosec // an i32
	stack[0] = wasiOK
}

func read32(m api.Memory, at uint32) uint32 {
	v, ok := m.ReadUint32Le(at)
	if !ok {
		panic(errMemory)
	}
	return v
}

func read64(m api.Memory, at uint32) uint64 {
	v, ok := m.ReadUint64Le(at)
	if !ok {
		panic(errMemory)
	}
	return v
}

func write32(m api.Memory, at, v uint32) {
	if !m.WriteUint32Le(at, v) {
		panic(errMemory)
	}
}

func write64(m api.Memory, at uint32, v uint64) {
	if !m.WriteUint64Le(at, v) {
		panic(errMemory)
	}
}

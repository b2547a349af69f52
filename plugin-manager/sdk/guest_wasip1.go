//go:build wasip1

package tero

import (
	"encoding/json"
	"fmt"
	"unsafe"
)

//go:wasmimport tero_v1 log
func hostLog(level uint32, p unsafe.Pointer, n uint32)

//go:wasmimport tero_v1 config
func hostConfig(p unsafe.Pointer, capacity uint32) uint32

// pinned keeps memory that the host knows by its address.
var pinned = map[uint32][]byte{}

func pin(b []byte) uint32 {
	p := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	pinned[p] = b
	return p
}

//go:wasmexport tero_abi
func abi() uint32 { return ABI }

//go:wasmexport tero_alloc
func alloc(n uint32) uint32 { return pin(make([]byte, n+1)) } // one more: never an empty allocation

//go:wasmexport tero_free
func free(p uint32) { delete(pinned, p) }

//go:wasmexport tero_call
func call(hook, p, n uint32) uint64 {
	in := pinned[p][:n]
	delete(pinned, p)
	out := Dispatch(node{}, hook, in)
	n = uint32(len(out))
	return uint64(pin(append(out, 0)))<<32 | uint64(n)
}

// node is the Host of a plugin that runs in TERO.
type node struct{}

// Log writes a line to the node's log.
func (node) Log(level int, format string, args ...any) {
	b := fmt.Appendf(nil, format, args...)
	if len(b) > 0 {
		hostLog(uint32(level), unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b)))
	}
}

// Config decodes the settings.
func (node) Config(v any) error {
	b := make([]byte, 4<<10)
	n := hostConfig(unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b)))
	if n > uint32(len(b)) {
		b = make([]byte, n)
		n = hostConfig(unsafe.Pointer(unsafe.SliceData(b)), n)
	}
	return json.Unmarshal(b[:n], v)
}

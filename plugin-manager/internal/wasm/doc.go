// Package wasm prepares foreign WebAssembly for a host that must stay in
// control: it bounds what a module may be and rewrites it so that it pays, in
// ticks, for what it does.
//
// A tick is a function entry or a loop iteration; long straight code and bulk
// memory and table operations pay by their length. The module keeps its slice
// of ticks in a global of its own, so that paying costs four instructions, and
// calls the host only when the slice is spent (every 20,000 ticks or so). There
// the host decides whether the guest goes on, and the Go scheduler and garbage
// collector get their turn. The count depends on the guest and its input alone,
// never on the machine or its load.
//
// Why not wazero's WithCloseOnContextDone: it leaves to Go at every loop
// iteration, which makes calls 5 to 19 times slower, and time decides; without
// it, one looping guest and one garbage collection hang the whole process.
package wasm

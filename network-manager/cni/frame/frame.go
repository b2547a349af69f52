// Package frame is what quantum-cni and the CNI socket say to one another. It
// imports next to nothing, because quantum-cni starts once for each verb and
// every package that it links costs it time.
//
//	request   length, 4 bytes, little endian: of all that follows
//	          the values of Names in their order, each ended by a NUL byte
//	          standard input, to the end
//	          with the first byte, the network namespace as SCM_RIGHTS (unix(7)),
//	          if CNI_NETNS names one that can be opened
//	response  the exit code, 1 byte; standard output, to the end
package frame

import (
	"errors"
)

// MaxRequest is the most bytes a request may have after its length.
const MaxRequest = 4 << 20

// LengthBytes is the size of the length.
const LengthBytes = 4

// Names are the environment variables of a request (CNI SPEC 1.1.0, section 2).
var Names = [...]string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"}

// Request is one verb as the runtime calls it.
type Request struct {
	Command, ContainerID, NetNS, Interface, Args, Path, NetNSOverride string
	// Stdin is the network configuration.
	Stdin []byte
}

// Errors of Parse and Length.
var (
	errShort   = errors.New("request ends within the environment")
	errLong    = errors.New("a value of the environment is longer than 64 KiB")
	errRequest = errors.New("request is longer than 4 MiB")
)

// PutLength writes n into the first bytes of b.
func PutLength(b []byte, n int) {
	for i := range LengthBytes {
		b[i] = byte(n >> (8 * i) & 0xff)
	}
}

// Length reads the first bytes of b.
func Length(b [LengthBytes]byte) (int, error) {
	n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
	if n > MaxRequest {
		return 0, errRequest
	}
	return n, nil
}

// Parse reads what follows the length.
func Parse(b []byte) (Request, error) {
	var values [len(Names)]string
	for i := range values {
		end := -1
		for j, c := range b {
			if c == 0 {
				end = j
				break
			}
		}
		if end < 0 {
			return Request{}, errShort
		}
		if end > 64<<10 {
			return Request{}, errLong
		}
		values[i], b = string(b[:end]), b[end+1:]
	}
	return Request{
		Command: values[0], ContainerID: values[1], NetNS: values[2], Interface: values[3],
		Args: values[4], Path: values[5], NetNSOverride: values[6], Stdin: b,
	}, nil
}

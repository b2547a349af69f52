// Package workload holds the values that cross module borders on the way from
// a request to a running, proven container: Spec, Image, Grant, Measurement,
// Evidence, Identity, Endpoint. It holds no behaviour beyond their validation.
package workload

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
)

// ID names one container for good: 32 lower-case hexadecimal digits, never reused.
type ID string

// NewID gives a random ID.
func NewID() ID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	return ID(hex.EncodeToString(b[:]))
}

var idPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Validate tells whether id has the form that NewID gives.
func (id ID) Validate() error {
	if !idPattern.MatchString(string(id)) {
		return fmt.Errorf("container id %q is not 32 lower-case hexadecimal digits", string(id))
	}
	return nil
}

// Short gives the first 12 digits, for tables and messages.
func (id ID) Short() string {
	if len(id) <= 12 {
		return string(id)
	}
	return string(id[:12])
}

package register

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/disk"
	"tero.internal/attestation/record"
	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// The files of the software register.
const (
	registerFile = "register"
	witnessFile  = "witness.key"
)

// Software is the register of a node without hardware: a PCR-like hash chain
// and a ratchet in a file. The file has two slots that are written in turn;
// the older one is wiped as soon as the newer is durable, so that a crash
// loses nothing and an old ratchet key does not stay.
type Software struct {
	f    *os.File
	boot string
	slot slot
}

// slot is the content of the register's file.
type slot struct {
	generation uint64
	count      uint64
	value      record.Register
	ratchet    bundle.Ratchet
}

const (
	slotMagic = "tero/v1 register"
	slotSize  = 512 // a disk sector, which is written whole or not at all
)

// OpenSoftware opens the register; it makes one only for a log that is fresh.
// Its error wraps ErrLost when the register of a log is gone or damaged.
func OpenSoftware(dir string, fresh bool) (*Software, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	path := filepath.Join(dir, registerFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if !fresh {
			return nil, fmt.Errorf("%w: %s does not exist", ErrLost, path)
		}
		if err := createSoftware(dir); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0) //nolint:gosec // the path is made of the state directory and a constant.
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	s := &Software{f: f, boot: strings.TrimSpace(string(boot))}
	if err := s.load(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

// createSoftware draws the first key of the ratchet. A copy waits in a file of
// its own until the operator takes it away to a safe place.
func createSoftware(dir string) error {
	var s slot
	_, _ = rand.Read(s.ratchet.Key[:]) // crypto/rand.Read never fails (Go 1.24)
	key := hex.EncodeToString(s.ratchet.Key[:]) + "\n"
	if err := atomicfile.Write(filepath.Join(dir, witnessFile), []byte(key), 0o600); err != nil {
		return disk.Fault("write the witness key", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, registerFile), append(s.encode(), make([]byte, slotSize)...), 0o600); err != nil {
		return disk.Fault("write the register", err)
	}
	return nil
}

// encode gives the slot's sector.
func (s *slot) encode() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, slotSize), slotMagic...)
	b = be.AppendUint64(b, s.generation)
	b = be.AppendUint64(b, s.count)
	b = append(b, s.value.SHA256[:]...)
	b = append(b, s.value.SHA384[:]...)
	b = append(b, s.ratchet.Key[:]...)
	b = append(b, s.ratchet.Aggregate[:]...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)[:slotSize:slotSize]
}

// slotLength is how many bytes of the sector are used, the checksum last.
const slotLength = len(slotMagic) + 8 + 8 + 32 + 48 + 32 + 32 + 32

// decodeSlot reads a sector; ok is false for one that was wiped or torn.
func decodeSlot(b []byte) (s slot, ok bool) {
	if len(b) != slotSize || !bytes.Equal(b[slotLength:], make([]byte, slotSize-slotLength)) || !bytes.HasPrefix(b, []byte(slotMagic)) {
		return slot{}, false
	}
	body := b[:slotLength-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):slotLength]) {
		return slot{}, false
	}
	rest := body[len(slotMagic):]
	s.generation, s.count = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
	rest = rest[16:]
	for _, d := range [][]byte{s.value.SHA256[:], s.value.SHA384[:], s.ratchet.Key[:], s.ratchet.Aggregate[:]} {
		rest = rest[copy(d, rest):]
	}
	return s, true
}

// load takes the newest slot and wipes the other.
func (s *Software) load() error {
	b := make([]byte, 2*slotSize)
	if n, err := s.f.ReadAt(b, 0); err != nil && n < len(b) {
		return fmt.Errorf("%w: %s is cut short", ErrLost, s.f.Name())
	}
	found := false
	for i := range 2 {
		if c, ok := decodeSlot(b[i*slotSize:][:slotSize]); ok && (!found || c.generation > s.slot.generation) {
			s.slot, found = c, true
		}
	}
	if !found {
		return fmt.Errorf("%w: %s is damaged", ErrLost, s.f.Name())
	}
	return s.wipe(s.slot.generation + 1)
}

// wipe zeroes the slot of a generation. It reaches the disk with the next
// write at the latest.
func (s *Software) wipe(generation uint64) error {
	_, err := s.f.WriteAt(make([]byte, slotSize), int64(generation%2)*slotSize)
	return err
}

// State reads what the register holds now.
func (s *Software) State() (State, error) {
	return State{Boot: s.boot, Value: s.slot.value, Aggregate: s.slot.ratchet.Aggregate}, nil
}

// Extend adds digests, in order, all in one write.
func (s *Software) Extend(ds []record.Digests) error {
	next := s.slot
	next.generation++
	for _, d := range ds {
		next.count++
		next.value = next.value.Extend(d)
		next.ratchet = next.ratchet.Step(d)
	}
	if _, err := s.f.WriteAt(next.encode(), int64(next.generation%2)*slotSize); err != nil {
		return disk.Fault("write the register", err)
	}
	if err := unix.Fdatasync(int(s.f.Fd())); err != nil {
		return disk.Fault("write the register", err)
	}
	s.slot = next
	return s.wipe(next.generation + 1)
}

// Quote gives nothing: software has no word of its own.
func (s *Software) Quote([]byte) (*bundle.Quote, error) { return nil, nil }

// Enrol adds nothing: software has no keys of its own.
func (s *Software) Enrol(*bundle.Enrolment, bool) error { return nil }

// Close closes the file.
func (s *Software) Close() error { return s.f.Close() }

// TakeWitnessKey gives the first key of the ratchet and erases it.
func TakeWitnessKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, witnessFile)
	b, err := os.ReadFile(path) //nolint:gosec // the path is made of the state directory and a constant.
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "the witness key was taken before, or this node's register is a TPM").
			WithHint("it is given once; only its keeper can use it")
	}
	if err != nil {
		return nil, fmt.Errorf("read the witness key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != sha256.Size {
		return nil, fault.New(fault.Corrupt, "the witness key %s is damaged", path)
	}
	if err := erase(path, len(b)); err != nil {
		return nil, disk.Fault("erase the witness key", err)
	}
	return key, atomicfile.SyncDir(dir)
}

// erase overwrites a file of n bytes where it lies before its name goes. That
// is the best a file system allows; some keep old blocks all the same.
func erase(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0) //nolint:gosec // the path is made of the state directory and a constant.
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, n), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Remove(path)
}

package tero

import "errors"

// The messages of api/plugin/v1/abi.proto, by hand: protobuf's own runtime
// would make the guest several times as large and slow to start. A test
// compares this with the generated code.

// The wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

var errWire = errors.New("malformed request")

// field is one field of a message: its number and its value.
type field struct {
	number uint64
	varint uint64
	bytes  []byte
}

// next takes the first field off b.
func next(b []byte) (f field, rest []byte, err error) {
	key, b, err := varint(b)
	if err != nil {
		return f, nil, err
	}
	f.number = key >> 3
	switch key & 7 {
	case wireVarint:
		f.varint, b, err = varint(b)
		return f, b, err
	case wire64:
		return skip(f, b, 8)
	case wire32:
		return skip(f, b, 4)
	case wireBytes:
		n, b, err := varint(b)
		if err != nil || n > uint64(len(b)) {
			return f, nil, errWire
		}
		f.bytes = b[:n]
		return f, b[n:], nil
	}
	return f, nil, errWire
}

func skip(f field, b []byte, n int) (field, []byte, error) {
	if len(b) < n {
		return f, nil, errWire
	}
	return f, b[n:], nil
}

func varint(b []byte) (uint64, []byte, error) {
	var x uint64
	for i := 0; i < len(b) && i < 10; i++ {
		x |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return x, b[i+1:], nil
		}
	}
	return 0, nil, errWire
}

// decodeRequest reads an AdmitRequest; fields that it does not know, from a
// newer minor version, are passed over.
func decodeRequest(b []byte) (*LaunchRequest, error) {
	r := &LaunchRequest{ImageLabels: map[string]string{}, Labels: map[string]string{}}
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		if err := r.set(f); err != nil {
			return nil, err
		}
		b = rest
	}
	return r, nil
}

func (r *LaunchRequest) set(f field) error {
	s := string(f.bytes)
	switch f.number {
	case 1:
		r.Name = s
	case 2:
		r.Image = s
	case 3:
		r.Reference = s
	case 4:
		r.Digest = s
	case 5:
		r.Signers = append(r.Signers, s)
	case 6:
		return entry(r.ImageLabels, f.bytes)
	case 7:
		r.Args = append(r.Args, s)
	case 8:
		r.Env = append(r.Env, s)
	case 9:
		r.WorkingDir = s
	case 10:
		r.User = s
	case 11:
		r.Hostname = s
	case 12:
		return entry(r.Labels, f.bytes)
	case 13:
		r.Terminal = f.varint != 0
	case 14:
		r.WritableRootfs = f.varint != 0
	case 15:
		r.CapAdd = append(r.CapAdd, s)
	case 16:
		r.MilliCPU = int64(f.varint) //nolint:gosec // protobuf's int64
	case 17:
		r.MemoryBytes = int64(f.varint) //nolint:gosec // protobuf's int64
	case 18:
		r.Pids = int64(f.varint) //nolint:gosec // protobuf's int64
	case 19:
		r.Network = s
	case 20:
		r.StopSignal = s
	case 21:
		r.AutoRemove = f.varint != 0
	case 22:
		r.MinLevel = s
	}
	return nil
}

// entry reads one entry of a map<string, string>.
func entry(m map[string]string, b []byte) error {
	var k, v string
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		switch f.number {
		case 1:
			k = string(f.bytes)
		case 2:
			v = string(f.bytes)
		}
		b = rest
	}
	m[k] = v
	return nil
}

// encode writes an AdmitResponse.
func (d Decision) encode() []byte {
	var b []byte
	if d.Allowed {
		b = append(b, 1<<3|wireVarint, 1)
	}
	b = appendString(b, 2, d.Code)
	b = appendString(b, 3, d.Reason)
	for _, c := range d.Changes {
		m := appendString(appendString(nil, 1, c.Path), 2, c.Value)
		b = appendVarint(append(b, 4<<3|wireBytes), uint64(len(m)))
		b = append(b, m...)
	}
	return b
}

func appendString(b []byte, number byte, s string) []byte {
	if s == "" {
		return b
	}
	b = appendVarint(append(b, number<<3|wireBytes), uint64(len(s)))
	return append(b, s...)
}

func appendVarint(b []byte, x uint64) []byte {
	for x >= 0x80 {
		b = append(b, byte(x)|0x80)
		x >>= 7
	}
	return append(b, byte(x))
}

package session

import (
	"errors"
	"io"
)

// chunk is how much of an upload one message carries.
const chunk = 256 << 10

// Upload gives a writer's worth of data to send in pieces. produce writes; an
// error that ends the stream (io.EOF of a gRPC send) is nil here, because only
// the answer says why.
func Upload(produce func(io.Writer) error, send func([]byte) error) error {
	u := &uploader{send: send, buf: make([]byte, 0, chunk)}
	err := produce(u)
	if err == nil {
		err = u.flush()
	}
	if errors.Is(err, errEnded) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

var errEnded = errors.New("the node ended the upload")

type uploader struct {
	send func([]byte) error
	buf  []byte
}

// Write gathers p into pieces of the right size.
func (u *uploader) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), chunk-len(u.buf))
		u.buf = append(u.buf, p[:k]...)
		p = p[k:]
		if len(u.buf) == chunk {
			if err := u.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (u *uploader) flush() error {
	if len(u.buf) == 0 {
		return nil
	}
	err := u.send(u.buf)
	u.buf = u.buf[:0]
	if errors.Is(err, io.EOF) {
		return errEnded
	}
	return err
}

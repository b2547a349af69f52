// Package rpc is how TERO's gRPC servers and clients meet: callers proved by
// the kernel or by a certificate, every request authorised, faults carried
// over with kind and hint.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tero.internal/common/fault"
)

// errorDomain marks the ErrorInfo details that are TERO's.
const errorDomain = "tero"

var kindCodes = map[fault.Kind]codes.Code{
	fault.Internal:        codes.Internal,
	fault.Invalid:         codes.InvalidArgument,
	fault.NotFound:        codes.NotFound,
	fault.Exists:          codes.AlreadyExists,
	fault.Denied:          codes.PermissionDenied,
	fault.Unauthenticated: codes.Unauthenticated,
	fault.Conflict:        codes.FailedPrecondition,
	fault.Exhausted:       codes.ResourceExhausted,
	fault.Unavailable:     codes.Unavailable,
	fault.Unsupported:     codes.Unimplemented,
	fault.Corrupt:         codes.DataLoss,
}

// ToStatus gives err as a gRPC status with its kind and hint in an ErrorInfo
// detail. An error that is already a status stays as it is.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		if _, ok := status.FromError(err); ok {
			return err
		}
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "the caller went away")
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, "the request took too long")
		}
	}
	kind := fault.KindOf(err)
	info := &errdetails.ErrorInfo{Reason: kind.String(), Domain: errorDomain}
	if hint := fault.HintOf(err); hint != "" {
		info.Metadata = map[string]string{"hint": hint}
	}
	s := status.New(kindCodes[kind], err.Error())
	if d, derr := s.WithDetails(info); derr == nil {
		s = d
	}
	return s.Err()
}

// FromStatus is the inverse of ToStatus, for clients. A status that is not
// TERO's gets the kind nearest to its code; a nil err is nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	f := &fault.Error{Kind: kindOfCode(s.Code()), Message: s.Message(), Cause: err}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			f.Kind = fault.ParseKind(info.GetReason())
			f.Hint = info.GetMetadata()["hint"]
		}
	}
	if len(s.Details()) == 0 && s.Code() == codes.ResourceExhausted {
		tooLarge(f)
	}
	return f
}

// tooLarge says what gRPC itself, on either side, means by its refusal of a message.
func tooLarge(f *fault.Error) {
	var size, most int64
	_, numbers, found := strings.Cut(f.Message, "message larger than max ")
	if _, err := fmt.Sscanf(numbers, "(%d vs. %d)", &size, &most); !found || err != nil {
		return
	}
	f.Kind = fault.Invalid
	f.Message = fmt.Sprintf("a message of %d bytes is too large between node and client: %d are allowed", size, most)
	f.Hint = "shorten the request's arguments, environment and labels, or ask for less at a time"
}

func kindOfCode(c codes.Code) fault.Kind {
	for kind, code := range kindCodes {
		if code == c {
			return kind
		}
	}
	return fault.Internal
}

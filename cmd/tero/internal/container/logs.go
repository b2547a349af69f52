package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/message"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

func logsCommand(s *session.Session) *cobra.Command {
	req := &runtimev1.LogsRequest{}
	var timestamps bool
	var since, until string
	cmd := &cobra.Command{
		Use:   "logs CONTAINER",
		Short: "Print what a container wrote",
		Example: `  tero logs -f --tail 20 web
  tero logs --since 10m --timestamps web
  tero logs --since 2026-01-02T15:00:00Z --until 2026-01-02T16:00:00Z web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Container = args[0]
			var err error
			if req.Since, err = moment("--since", since, s.Now()); err != nil {
				return err
			}
			if req.Until, err = moment("--until", until, s.Now()); err != nil {
				return err
			}
			return printLogs(cmd.Context(), s, req, timestamps)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on until the container has exited")
	f.Int64VarP(&req.Tail, "tail", "n", 0, "only the last lines (0: all)")
	f.BoolVar(&timestamps, "timestamps", false, "print the time before each line")
	f.StringVar(&since, "since", "", "only from a time on: RFC 3339, or how long ago (10m)")
	f.StringVar(&until, "until", "", "only before a time: RFC 3339, or how long ago (10m)")
	return cmd
}

func printLogs(ctx context.Context, s *session.Session, req *runtimev1.LogsRequest, timestamps bool) error {
	c, err := s.Node()
	if err != nil {
		return err
	}
	stream, err := c.Runtime.Logs(ctx, req)
	if err != nil {
		return err
	}
	begun := map[runtimev1.Output_Stream]bool{} // lines that go on: no second time stamp
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.GetDropped() {
			noteDropped(s)
		}
		w, out := s.Stdout, r.GetOutput()
		if out.GetStream() == runtimev1.Output_STREAM_STDERR {
			w = s.Stderr
		}
		data := out.GetData()
		if timestamps && !begun[out.GetStream()] {
			if _, err := fmt.Fprintf(w, "%s ", r.GetTime().AsTime().UTC().Format(time.RFC3339Nano)); err != nil {
				return err
			}
		}
		begun[out.GetStream()] = len(data) == 0 || data[len(data)-1] != '\n'
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
}

// noteDropped tells that what comes next is not all.
func noteDropped(s *session.Session) {
	s.Note(message.Dropped)
}

// moment reads a time: of RFC 3339, a date, seconds since 1970, or how long ago.
func moment(flag, text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // none was given
	}
	if d, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(now.Add(-d)), nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 && seconds < 1e11 {
		return timestamppb.New(time.UnixMicro(int64(seconds * 1e6))), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return timestamppb.New(t), nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} { // of this machine's zone
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fault.New(fault.Invalid, "%s %q is neither a time nor a duration", flag, text).
		WithHint("write 2026-01-02T15:04:05Z, or 10m for ten minutes ago")
}

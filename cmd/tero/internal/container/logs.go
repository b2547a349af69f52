package container

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/session"
)

func logsCommand(s *session.Session) *cobra.Command {
	req := &runtimev1.LogsRequest{}
	var timestamps bool
	cmd := &cobra.Command{
		Use:   "logs CONTAINER",
		Short: "Print what a container wrote",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Container = args[0]
			c, err := s.Node()
			if err != nil {
				return err
			}
			stream, err := c.Runtime.Logs(cmd.Context(), req)
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
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on until the container has exited")
	f.Int64VarP(&req.Tail, "tail", "n", 0, "only the last lines (0: all)")
	f.BoolVar(&timestamps, "timestamps", false, "print the time before each line")
	return cmd
}

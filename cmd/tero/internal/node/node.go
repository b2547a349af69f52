// Package node holds the commands about the node itself: start it, end it,
// look at it and at the machine below it.
package node

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	nodev1 "tero.internal/api/node/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/buildinfo"
)

// Commands gives the commands of this package.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{
		upCommand(s), downCommand(s), statusCommand(s), eventsCommand(s),
		doctorCommand(s), versionCommand(s), configCommand(s),
	}
}

func downCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove every container and end the node; images, policies, keys and the launch log stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Node.Down(cmd.Context(), &nodev1.DownRequest{})
			if err != nil {
				return err
			}
			v := render.View{Single: true, Items: []any{r}}
			for _, name := range r.GetContainers() {
				v.Rows = append(v.Rows, render.Row{Name: name})
				v.Text += "removed " + render.Clean(name) + "\n"
			}
			v.Text += "the node is down\n"
			return s.Show(v)
		},
	}
}

func statusCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell what the node is and how it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Node.Status(cmd.Context(), &nodev1.StatusRequest{})
			if err != nil {
				return err
			}
			return s.Show(statusView(r, s.Now()))
		},
	}
}

func statusView(r *nodev1.StatusResponse, now time.Time) render.View {
	return render.View{
		Single: true,
		Items:  []any{r},
		Rows:   []render.Row{{Name: r.GetName()}},
		Text: render.Fields(
			[2]string{"Node", r.GetName()},
			[2]string{"Level", r.GetLevelDescription()},
			[2]string{"SPIFFE ID", r.GetSpiffeId()},
			[2]string{"API socket", r.GetSocket()},
			[2]string{"API address", orOff(r.GetAddress())},
			[2]string{"CNI socket", r.GetCniSocket()},
			[2]string{"State", r.GetStateDir()},
			[2]string{"Containers", fmt.Sprintf("%d running, %d in all", r.GetContainersRunning(), r.GetContainers())},
			[2]string{"Launch records", launchLog(r)},
			[2]string{"Policy digest", r.GetPolicyDigest()},
			[2]string{"Plugins", fmt.Sprintf("%d active", r.GetPluginsActive())},
			[2]string{"Version", r.GetVersion()},
			[2]string{"Up since", render.Time(r.GetStarted()) + " (" + render.Ago(now, r.GetStarted()) + ")"},
		),
	}
}

func orOff(s string) string {
	if s == "" {
		return "off"
	}
	return s
}

func eventsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Print what happens on the node from now on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			stream, err := c.Node.WatchEvents(cmd.Context(), &nodev1.WatchEventsRequest{})
			if err != nil {
				return err
			}
			for {
				e, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if n := e.GetMissed(); n > 0 {
					s.Note("%d events were lost here: this reader was too slow", n)
				}
				if err := s.Show(eventView(e)); err != nil {
					return err
				}
			}
		},
	}
}

// eventView is one line a view, because a stream has no end to align columns by.
func eventView(e *nodev1.WatchEventsResponse) render.View {
	return render.View{
		Single: true, Stream: true,
		Items: []any{e},
		Rows:  []render.Row{{Name: e.GetType()}},
		Text: fmt.Sprintf("%s  %-20s  %-16s  %s\n", render.Time(e.GetTime()), render.Clean(e.GetType()),
			render.Or(render.Clean(e.GetName())), render.Clean(e.GetMessage())),
	}
}

func versionCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell which build this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			i := buildinfo.Get()
			return s.Show(render.View{
				Single: true, Items: []any{i}, Rows: []render.Row{{Name: i.Version}},
				Text: fmt.Sprintf("tero %s (%s, %s)\n", i.Version, i.Go, i.Platform),
			})
		},
	}
}

// launchLog tells the log's size, and why nothing is launched any more if so.
func launchLog(r *nodev1.StatusResponse) string {
	if f := r.GetLaunchLogFault(); f != "" {
		return fmt.Sprintf("%d; NO LAUNCH IS POSSIBLE: %s", r.GetLaunchRecords(), f)
	}
	return fmt.Sprint(r.GetLaunchRecords())
}

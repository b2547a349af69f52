package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
)

func statsCommand(s *session.Session) *cobra.Command {
	var once bool
	interval := time.Second
	cmd := &cobra.Command{
		Use:   "stats [CONTAINER...]",
		Short: "Tell what running containers use: CPU, memory, network, disk, processes",
		Long: `Tell what running containers use, again and again until they end; of all that
run now when none is named. 100 % of CPU is one core.

With -o json, one object a line for each container and interval.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				r, err := c.Runtime.ListContainers(cmd.Context(), &runtimev1.ListContainersRequest{})
				if err != nil {
					return err
				}
				for _, l := range r.GetContainers() {
					if l.GetState() == runtimev1.State_STATE_RUNNING {
						args = append(args, l.GetId())
					}
				}
			}
			return watchStats(cmd.Context(), s, c, args, interval, once)
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "end after the first interval")
	cmd.Flags().DurationVar(&interval, "interval", interval, "time from one sample to the next")
	return cmd
}

// watchStats shows samples of all containers together, once an interval.
func watchStats(ctx context.Context, s *session.Session, c *client.Client, names []string, interval time.Duration, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	b := &board{newest: make([]*runtimev1.StatsResponse, len(names)), errs: make([]error, len(names))}
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for i, name := range names {
		readers.Go(func() {
			b.watch(ctx, c, i, &runtimev1.StatsRequest{Container: name, Interval: durationpb.New(interval), Once: once})
		})
	}
	ended := make(chan struct{})
	go func() {
		readers.Wait()
		close(ended)
	}()
	if once {
		<-ended
		if err := show(s, b.take(), false); err != nil {
			return err
		}
		return b.err(s)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return b.err(s)
		case <-ticker.C:
			if err := show(s, b.take(), true); err != nil {
				return err
			}
		}
	}
}

// board holds the newest sample of each container.
type board struct {
	mu     sync.Mutex // guards what follows
	newest []*runtimev1.StatsResponse
	errs   []error
}

// watch keeps a container's newest sample until it ends.
func (b *board) watch(ctx context.Context, c *client.Client, i int, req *runtimev1.StatsRequest) {
	stream, err := c.Runtime.Stats(ctx, req)
	for err == nil {
		var r *runtimev1.StatsResponse
		if r, err = stream.Recv(); err == nil {
			b.mu.Lock()
			b.newest[i] = r
			b.mu.Unlock()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs[i] = err
	if !req.GetOnce() {
		b.newest[i] = nil // it has ended
	}
}

// take gives the samples that are there.
func (b *board) take() []*runtimev1.StatsResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.newest), func(r *runtimev1.StatsResponse) bool { return r == nil })
}

// err reports all errors but the last, which it gives.
func (b *board) err(s *session.Session) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var last error
	for _, err := range b.errs {
		if err != nil {
			s.ReportError(last)
			last = err
		}
	}
	return last
}

// show prints samples: over the ones before on a terminal.
func show(s *session.Session, samples []*runtimev1.StatsResponse, again bool) error {
	if !s.Plain() {
		for _, r := range samples {
			if err := s.Show(render.View{Single: true, Stream: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetName()}}}); err != nil {
				return err
			}
		}
		return nil
	}
	if again && terminal.Is(s.Stdout) {
		const home = "\x1b[H\x1b[2J"
		if _, err := io.WriteString(s.Stdout, home); err != nil {
			return err
		}
	}
	v := render.View{
		Columns: []string{"NAME", "CPU", "MEMORY", "LIMIT", "NETWORK IN", "OUT", "DISK READ", "WRITTEN", "PIDS"},
		Wide:    []string{"ID", "PEAK MEMORY", "THROTTLED", "PIDS LIMIT"},
	}
	for _, r := range samples {
		v.Add(r, statsRow(r))
	}
	return s.Show(v)
}

func statsRow(r *runtimev1.StatsResponse) render.Row {
	limit, pids := render.None, render.None
	if l := r.GetMemoryLimitBytes(); l > 0 {
		limit = fmt.Sprintf("%s (%.0f%%)", bytes(l), 100*float64(r.GetMemoryBytes())/float64(l))
	}
	if l := r.GetPidsLimit(); l > 0 {
		pids = fmt.Sprint(l)
	}
	read, written := render.None, render.None
	if r.IoReadBytes != nil {
		read, written = bytes(r.GetIoReadBytes()), bytes(r.GetIoWriteBytes())
	}
	return render.Row{
		Name: r.GetName(),
		Cells: []string{
			r.GetName(), fmt.Sprintf("%.1f%%", r.GetCpuPercent()), bytes(r.GetMemoryBytes()), limit,
			bytes(r.GetNetworkReceivedBytes()), bytes(r.GetNetworkSentBytes()), read, written, fmt.Sprint(r.GetPids()),
		},
		Wide: []string{
			render.Short(r.GetId()), bytes(r.GetMemoryPeakBytes()), time.Duration(r.GetCpuThrottledNs()).Round(time.Millisecond).String(), pids, //nolint:gosec // a duration
		},
	}
}

func bytes(n uint64) string { return render.Size(int64(min(n, 1<<63-1))) }

func topCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "top CONTAINER [FIELD...]",
		Short: "List the processes in a container",
		Long: `List the processes in a running container. FIELDs choose the columns, of
pid, ppid and user inside the container, hpid (the pid on the node), stat,
nlwp (threads), rss, time, start, comm (what the process calls itself) and
args; several may stand in one with commas.`,
		Example: "  tero top web\n  tero top web hpid,pid,rss,args",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fields, err := psFields(args[1:])
			if err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Runtime.Top(cmd.Context(), &runtimev1.TopRequest{Container: args[0]})
			if err != nil {
				return err
			}
			v := render.View{}
			for _, f := range fields {
				v.Columns = append(v.Columns, strings.ToUpper(f.name))
			}
			for _, p := range r.GetProcesses() {
				row := render.Row{Name: fmt.Sprint(p.GetPid())}
				for _, f := range fields {
					row.Cells = append(row.Cells, f.of(p))
				}
				v.Add(p, row)
			}
			return s.Show(v)
		},
	}
}

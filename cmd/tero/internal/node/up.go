package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	nodev1 "tero.internal/api/node/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

// upTimeout bounds how long "up --detach" waits for the node's first answer.
const upTimeout = 30 * time.Second

const upHelp = `Start a node. It needs root.

In the foreground it ends with Ctrl-C; containers run on without it and are
taken up again by the next start ("tero down" removes them).

Usage:
  tero up [--detach] [--log FILE] [NODE FLAGS...]

Flags:
  -d, --detach     start it in the background and wait until it answers
      --log FILE   log of the node in the background (terod.log beside its socket)
  -h, --help       this text

-o, --format and -q work as everywhere. Every other flag is the node's: see "terod --help".
`

func upCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "up [--detach] [NODE FLAGS...]",
		Short: "Start a node",
		// The node knows its flags; a copy of them here would go stale.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := parseUp(args, s.Getenv, s.Connection.Socket, s.Style)
			if err != nil {
				return err
			}
			if o.help {
				_, err := io.WriteString(s.Stdout, upHelp)
				return err
			}
			s.Style = o.style
			if err := s.Style.Validate(); err != nil {
				return err
			}
			bin, err := findTerod()
			if err != nil {
				return err
			}
			if !o.detach {
				err := unix.Exec(bin, append([]string{"terod"}, o.flags...), nodeEnvironment())
				return fault.New(fault.Internal, "cannot execute %s: %w", bin, err)
			}
			return upDetached(cmd.Context(), s, bin, o)
		},
	}
}

// up is what the arguments of the command say.
type up struct {
	help, detach bool
	log          string
	style        render.Style // how to print the node's status
	socket       string       // where the node will answer
	flags        []string     // terod's
}

// parseUp takes the few flags out that are the CLI's and learns from the
// node's where it will answer.
func parseUp(args []string, getenv func(string) string, socket string, style render.Style) (up, error) {
	o := up{socket: socket, style: style}
	run := getenv("TERO_RUN_DIR")
	explicit := getenv("TERO_SOCKET") != ""
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		if len(name) > 2 && name[0] == '-' && name[1] != '-' {
			name = "-" + name // terod takes -run-dir for --run-dir
		}
		takes := slices.Contains([]string{"--log", "--socket", "--run-dir", "--output", "-o", "--format"}, name)
		from := i
		if takes && !joined {
			if i+1 == len(args) {
				return o, fault.New(fault.Invalid, "flag %s needs a value", name)
			}
			i++
			value = args[i]
		}
		switch name {
		case "-h", "--help":
			o.help = true
			return o, nil
		case "-d", "--detach":
			o.detach = true
			continue
		case "--log":
			o.log = value
			continue
		case "-o", "--output":
			o.style.Output = value
			continue
		case "--format":
			o.style.Template = value
			continue
		case "-q", "--quiet":
			o.style.Quiet = true
			continue
		case "--socket":
			o.socket, explicit = value, true
		case "--run-dir":
			run = value
		}
		o.flags = append(o.flags, args[from:i+1]...)
	}
	if !explicit && run != "" {
		o.socket = filepath.Join(run, "tero.sock")
	}
	if o.log == "" {
		o.log = filepath.Join(filepath.Dir(o.socket), "terod.log")
	}
	return o, nil
}

// nodeEnvironment leaves out what configures the CLI and not the node.
func nodeEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return name != "TERO_SOCKET" && slices.Contains(session.Variables, name)
	})
}

// findTerod prefers the terod beside this program: they were built together.
func findTerod() (string, error) {
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			beside := filepath.Join(filepath.Dir(exe), "terod")
			if i, err := os.Stat(beside); err == nil && i.Mode().IsRegular() {
				return beside, nil
			}
		}
	}
	if bin, err := exec.LookPath("terod"); err == nil {
		return bin, nil
	}
	return "", fault.New(fault.NotFound, "terod, the node's program, is neither beside tero nor in PATH").
		WithHint("install it beside tero: \"make install\" does")
}

func upDetached(ctx context.Context, s *session.Session, bin string, o up) error {
	if err := os.MkdirAll(filepath.Dir(o.log), 0o755); err != nil { //nolint:gosec // the folder of the socket must be passable
		return fault.New(fault.Invalid, "folder of the log: %w", err)
	}
	log, err := os.OpenFile(o.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fault.New(fault.Invalid, "log of the node: %w", err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("log of the node: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin, o.flags...) //nolint:gosec // our own program; the flags are the user's own
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, nodeEnvironment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fault.New(fault.Internal, "cannot start %s: %w", bin, err)
	}
	died := make(chan struct{})
	go func() { // ends with the node, or with this program
		defer close(died)
		_ = cmd.Wait() // what the node said is in its log
	}()
	status, err := firstAnswer(ctx, s, o.socket, died)
	if errors.Is(err, errDied) {
		return startFailure(o.log, begin)
	}
	if err != nil {
		return err
	}
	v := statusView(status, s.Now())
	v.Text = render.Fields(
		[2]string{"Node", status.GetName() + " is up"},
		[2]string{"Level", status.GetLevelDescription()},
		[2]string{"API socket", status.GetSocket()},
		[2]string{"API address", orOff(status.GetAddress())},
		[2]string{"Log", o.log},
	)
	return s.Show(v)
}

var errDied = errors.New("the node ended")

// firstAnswer asks for the status until the node answers.
func firstAnswer(ctx context.Context, s *session.Session, socket string, died <-chan struct{}) (*nodev1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		r, err := askStatus(ctx, s, socket)
		if err == nil {
			return r, nil
		}
		select {
		case <-died:
			return nil, errDied
		case <-again.C:
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "the node does not answer at %s after %s: %w", socket, upTimeout, err).
				WithHint("it may still be starting; see its log. If a file configures its socket, say --socket here, too")
		}
	}
}

func askStatus(ctx context.Context, s *session.Session, socket string) (*nodev1.StatusResponse, error) {
	if _, err := os.Stat(socket); err != nil {
		return nil, err
	}
	c, err := s.Dial(client.Options{Socket: socket})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Node.Status(ctx, &nodev1.StatusRequest{})
}

// How terod's last words begin.
const (
	nodeError = "terod: error: "
	nodeHint  = "terod: hint: "
)

// startFailure tells what the node said before it ended.
func startFailure(log string, begin int64) error {
	said := ""
	if b, err := os.ReadFile(log); err == nil && int64(len(b)) >= begin {
		said = string(bytes.TrimSpace(b[begin:]))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		said = err.Error()
	}
	lines := strings.Split(said, "\n")
	// The error itself is what terod prints last, by the same rules as tero; the
	// log lines before it matter only when there is none.
	if at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, nodeError) }); at >= 0 {
		lines = lines[at:]
		lines[0] = strings.TrimPrefix(lines[0], nodeError)
	}
	lines = lines[max(0, len(lines)-10):]
	hint := "see its log " + log
	if last := len(lines) - 1; strings.HasPrefix(lines[last], nodeHint) {
		hint = strings.TrimPrefix(lines[last], nodeHint)
		lines = lines[:last]
	}
	return fault.New(fault.Internal, "the node did not start: %s", strings.Join(lines, "\n")).WithHint("%s", hint)
}

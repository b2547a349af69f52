// Package session is what every command shares: its streams, the global flags,
// the connection to the node, and how results are shown.
package session

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"tero.internal/client"
	"tero.internal/cmd/tero/internal/message"
	"tero.internal/cmd/tero/internal/render"
)

// Session is one run of the CLI.
type Session struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Getenv reads the environment.
	Getenv func(string) string
	// Now is the clock that ages are told by.
	Now func() time.Time
	// Connection says which node; flags and environment filled it.
	Connection client.Options
	Style      render.Style
	NoColor    bool
	// Dial makes the client; tests replace it.
	Dial func(client.Options) (*client.Client, error)

	node *client.Client
}

// New gives a session on the process's own streams and environment.
func New() *Session {
	return &Session{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now, Dial: client.Dial}
}

// Variables are the environment variables that are the CLI's own: the node
// does not know them.
var Variables = []string{"TERO_SOCKET", "TERO_NODE", "TERO_TLS_CA", "TERO_TLS_CERT", "TERO_TLS_KEY", "TERO_OUTPUT"}

// AddFlags declares the global flags; what the environment says is the default.
func (s *Session) AddFlags(f *pflag.FlagSet) {
	env := func(name, otherwise string) string {
		if v := s.Getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	f.StringVar(&s.Connection.Socket, "socket", env("TERO_SOCKET", client.DefaultSocket), "the node's socket (TERO_SOCKET)")
	f.StringVar(&s.Connection.Address, "address", env("TERO_NODE", ""), "a node's host:port, by mutual TLS (TERO_NODE)")
	f.StringVar(&s.Connection.CAFile, "tls-ca", env("TERO_TLS_CA", ""), "CA of the node's trust domain, PEM (TERO_TLS_CA)")
	f.StringVar(&s.Connection.CertFile, "tls-cert", env("TERO_TLS_CERT", ""), "your certificate, PEM (TERO_TLS_CERT)")
	f.StringVar(&s.Connection.KeyFile, "tls-key", env("TERO_TLS_KEY", ""), "its key, PEM (TERO_TLS_KEY)")
	f.StringVarP(&s.Style.Output, "output", "o", env("TERO_OUTPUT", "table"), "table, wide, json, yaml or name (TERO_OUTPUT)")
	f.StringVar(&s.Style.Template, "format", "", "Go template over the fields of -o json")
	f.BoolVarP(&s.Style.Quiet, "quiet", "q", false, "print names only")
	f.BoolVar(&s.NoColor, "no-color", false, "no colours, also not on a terminal (NO_COLOR)")
}

// Node gives the client, made at first use.
func (s *Session) Node() (*client.Client, error) {
	if s.node == nil {
		c, err := s.Dial(s.Connection)
		if err != nil {
			return nil, err
		}
		s.node = c
	}
	return s.node, nil
}

// Close ends the connection, if there is one.
func (s *Session) Close() {
	if s.node != nil {
		_ = s.node.Close() // the process ends; nothing is left to lose
	}
}

// Show prints a view the way the user asked.
func (s *Session) Show(v render.View) error { return render.Print(s.Stdout, s.Style, v) }

// Did shows that something was done: a line for people, or item and name the
// way the user asked. JSON takes one line each.
func (s *Session) Did(item any, name, format string, args ...any) error {
	return s.Show(render.View{
		Single: true, Stream: true, Items: []any{item}, Rows: []render.Row{{Name: name}},
		Text: render.Clean(fmt.Sprintf(format, args...)) + "\n",
	})
}

// Named is the item of what is done to a thing of which only the name is known.
type Named struct {
	Name string `json:"name"`
}

// Plain tells whether the user asked for a form that people read.
func (s *Session) Plain() bool {
	return s.Style.Template == "" && (s.Style.Output == "table" || s.Style.Output == "wide" || s.Style.Output == "")
}

// Colour tells whether w should get colours.
func (s *Session) Colour(w io.Writer) bool {
	if s.NoColor || !message.Colour(s.Getenv) {
		return false
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Each calls do with every name and goes on after a failure. It reports every
// error but the last, which it gives back for the exit code.
func (s *Session) Each(names []string, do func(*client.Client, string) error) error {
	c, err := s.Node()
	if err != nil {
		return err
	}
	var failed error
	for _, n := range names {
		err := do(c, n)
		if err == nil {
			continue
		}
		s.ReportError(failed)
		failed = err
	}
	return failed
}

// Note prints one line for people on standard error.
func (s *Session) Note(format string, args ...any) {
	_, _ = io.WriteString(s.Stderr, message.Note(fmt.Sprintf(format, args...)))
}

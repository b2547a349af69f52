package front

import (
	"strings"

	"tero.internal/client/reach"
	"tero.internal/cmd/tero/internal/wire"
)

// launch is what a command line asks for.
type launch struct {
	socket  string
	request []byte // an AttachRequest that launches
	stdin   bool
}

// Fields of runtime.v1 that are written here.
const (
	attachRun        = 1
	attachStdin      = 3
	attachCloseStdin = 5
	attachSignal     = 6

	runSpec = 1

	specImage      = 2
	specEntrypoint = 3
	specArgs       = 4
	specOpenStdin  = 11
)

// kind is how a flag's value becomes a field's.
type kind byte

const (
	nodeSocket kind = iota // no field: where the node is
	text                   // as it is; a list gets one more
	yes                    // a bool, which takes no further argument
	number                 // an integer
	entrypoint             // a list of one; the last counts
	variable               // KEY=value, or KEY for the environment's
	pair                   // KEY=value of a map
	size                   // bytes with a unit
	cores                  // thousandths
	capability             // with CAP_
	signalName             // with SIG
)

// flag is a flag of "tero run" that the front knows. Its meaning is the CLI's,
// which the tests compare it with.
type flag struct {
	long  string
	short byte
	kind  kind
	field int
}

// flags are those that need nothing but their value. All others are the CLI's.
var flags = [...]flag{
	{"rm", 0, yes, 19},
	{"interactive", 'i', yes, specOpenStdin},
	{"name", 0, text, 1},
	{"env", 'e', variable, 5},
	{"label", 'l', pair, 9},
	{"workdir", 'w', text, 6},
	{"user", 'u', text, 7},
	{"hostname", 0, text, 8},
	{"entrypoint", 0, entrypoint, specEntrypoint},
	{"cpus", 0, cores, 14},
	{"memory", 'm', size, 15},
	{"pids-limit", 0, number, 16},
	{"network", 0, text, 17},
	{"stop-signal", 0, signalName, 18},
	{"min-level", 0, text, 20},
	{"cap-add", 0, capability, 13},
	{"writable", 0, yes, 12},
	{"socket", 0, nodeSocket, 0},
}

// parser reads a command line of "tero run".
type parser struct {
	getenv     func(string) string
	socket     string
	entrypoint string
	stdin      bool
	spec       []byte
}

// parse reads what follows "run"; false when the CLI must look at it, also to
// say what is wrong with it.
func parse(args []string, getenv func(string) string) (launch, bool) {
	// Another way to the node, or of showing things.
	if getenv("TERO_NODE") != "" || getenv("TERO_OUTPUT") != "" {
		return launch{}, false
	}
	p := &parser{getenv: getenv, socket: getenv("TERO_SOCKET"), spec: make([]byte, 0, 512)}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		ok := false
		if arg[1] == '-' {
			args, ok = p.long(arg[2:], args)
		} else {
			args, ok = p.short(arg[1:], args)
		}
		if !ok {
			return launch{}, false
		}
	}
	if len(args) == 0 {
		return launch{}, false
	}
	valid := p.entrypoint == "" || p.text(specEntrypoint, p.entrypoint)
	valid = p.text(specImage, args[0]) && valid
	for _, a := range args[1:] {
		valid = p.text(specArgs, a) && valid
	}
	if !valid {
		return launch{}, false
	}
	if p.socket == "" {
		p.socket = reach.DefaultSocket
	}
	run := wire.AppendBytes(nil, runSpec, p.spec)
	return launch{socket: p.socket, stdin: p.stdin, request: wire.AppendBytes(nil, attachRun, run)}, true
}

// long reads --flag, --flag=value, or --flag and its value in the next argument.
func (p *parser) long(arg string, rest []string) ([]string, bool) {
	name, value, joined := strings.Cut(arg, "=")
	for i := range flags {
		f := &flags[i]
		if f.long != name {
			continue
		}
		if !joined {
			if f.kind == yes {
				return rest, p.set(f, "true")
			}
			if len(rest) == 0 {
				return nil, false
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, p.set(f, value)
	}
	return nil, false
}

// short reads -abc, -fvalue, or -f and its value in the next argument.
func (p *parser) short(letters string, rest []string) ([]string, bool) {
letters:
	for letters != "" {
		for i := range flags {
			f := &flags[i]
			if f.short == 0 || f.short != letters[0] {
				continue
			}
			letters = letters[1:]
			switch {
			case strings.HasPrefix(letters, "="):
				return nil, false
			case f.kind == yes:
				if !p.set(f, "true") {
					return nil, false
				}
				continue letters
			case letters != "":
				return rest, p.set(f, letters)
			case len(rest) == 0:
				return nil, false
			}
			return rest[1:], p.set(f, rest[0])
		}
		return nil, false
	}
	return rest, true
}

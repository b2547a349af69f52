// Package copier is the process that reads and writes the files of one container
// for "tero cp", as tero-init. It is a process of its own because of what it may
// do: in a user namespace with the container's ids it is the container's root, to
// whom every file of the container is open, and on the node nobody, whom no file
// of the node is open to. So even a mistake in how paths are resolved could not
// reach beyond the container (CVE-2018-15664). It loads nothing and executes
// nothing of the container (CVE-2019-14271), and ends with the copy.
package copier

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"tero.internal/common/fault"
	"tero.internal/common/filetree"
)

// The descriptors that terod hands over beside the standard streams, which carry the archive.
const (
	RootFD   = 3 // the container's root folder
	ReportFD = 4 // the report is written there
)

// Command is the first argument that starts a copier; Out and In are the second.
const (
	Command = "copier"
	Out     = "out"
	In      = "in"
)

// Arguments are the further arguments of a copier, in this order.
type Arguments struct {
	Path string
	// Follow is for Out.
	Follow bool
	// Source, Raw and Owners are for In.
	Source      filetree.Source
	Raw, Owners bool
}

// Strings encodes the arguments.
func (a *Arguments) Strings() []string {
	return []string{
		a.Path, strconv.FormatBool(a.Follow), a.Source.Name, strconv.FormatBool(a.Source.Directory), strconv.FormatBool(a.Source.Contents),
		strconv.FormatBool(a.Raw), strconv.FormatBool(a.Owners),
	}
}

// parse decodes them.
func parse(args []string) (*Arguments, error) {
	const count = 7
	if len(args) != count {
		return nil, errors.New("wrong number of arguments")
	}
	a := &Arguments{Path: args[0], Source: filetree.Source{Name: args[2]}}
	for i, to := range map[int]*bool{1: &a.Follow, 3: &a.Source.Directory, 4: &a.Source.Contents, 5: &a.Raw, 6: &a.Owners} {
		v, err := strconv.ParseBool(args[i])
		if err != nil {
			return nil, err
		}
		*to = v
	}
	return a, nil
}

// Run copies as the arguments after Command say, and gives the exit code.
func Run(args []string) int {
	report := os.NewFile(ReportFD, "report")
	root := os.NewFile(RootFD, "root")
	if report == nil || root == nil || len(args) == 0 {
		return 2
	}
	summary, err := run(args[0], args[1:], root, report)
	if err != nil {
		err = WriteFault(report, err)
	} else {
		_, err = fmt.Fprintf(report, "done %d %d %d\n", summary.Entries, summary.Bytes, summary.Skipped)
	}
	if err != nil {
		return 1
	}
	return 0
}

func run(direction string, args []string, folder, report *os.File) (filetree.Summary, error) {
	a, err := parse(args)
	if err != nil {
		return filetree.Summary{}, err
	}
	root, err := filetree.In(folder)
	if err != nil {
		return filetree.Summary{}, err
	}
	if direction == Out {
		out := bufio.NewWriterSize(os.Stdout, 64<<10)
		summary, err := filetree.Pack(out, root, a.Path, a.Follow, func(s filetree.Source) error {
			_, err := fmt.Fprintf(report, "source %q %t %t %d\n", s.Name, s.Directory, s.Contents, s.Size)
			return err
		})
		if err == nil {
			err = out.Flush()
		}
		return summary, err
	}
	target, err := root.Target(a.Path, a.Source, a.Raw)
	if err != nil {
		return filetree.Summary{}, err
	}
	defer target.Close()
	summary, err := filetree.Unpack(bufio.NewReaderSize(os.Stdin, 64<<10), target, a.Owners)
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin) // what pads an archive
	}
	return summary, err
}

// WriteFault reports an error.
func WriteFault(w io.Writer, err error) error {
	_, e := fmt.Fprintf(w, "fault %s %q %q\n", fault.KindOf(err), err.Error(), fault.HintOf(err))
	return e
}

// Report is one line of a report.
type Report struct {
	Source *filetree.Source
	Done   *filetree.Summary
	Fault  error
}

// ParseReport reads a line.
func ParseReport(line string) (Report, error) {
	var s filetree.Source
	if _, err := fmt.Sscanf(line, "source %q %t %t %d\n", &s.Name, &s.Directory, &s.Contents, &s.Size); err == nil {
		return Report{Source: &s}, nil
	}
	var d filetree.Summary
	if _, err := fmt.Sscanf(line, "done %d %d %d\n", &d.Entries, &d.Bytes, &d.Skipped); err == nil {
		return Report{Done: &d}, nil
	}
	var kind, message, hint string
	if _, err := fmt.Sscanf(line, "fault %s %q %q\n", &kind, &message, &hint); err != nil {
		return Report{}, fmt.Errorf("the copier reports %q", line)
	}
	f := fault.New(fault.ParseKind(kind), "%s", message)
	if hint != "" {
		f = f.WithHint("%s", hint)
	}
	return Report{Fault: f}, nil
}

// Package copierclient is terod's side of copying files to and from containers.
package copierclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/filetree"
	"tero.internal/runtime/copier"
	"tero.internal/runtime/internal/idmap"
)

// Place is where a copier works.
type Place struct {
	InitPath string   // the tero-init binary
	Root     *os.File // the container's root folder
	HostID   uint32   // what user and group 0 of the container are on the node
}

// lastWords is how long the streams of a copier that has ended are waited for:
// who sends an archive may not know yet that nobody takes it.
const lastWords = 200 * time.Millisecond

// Copy is a copier at work.
type Copy struct {
	cmd    *exec.Cmd
	words  strings.Builder // what it says when it fails in an unforeseen way
	report *bufio.Reader
	pipe   *os.File
	// Archive is what it writes (Out).
	Archive io.Reader
	// Source is what it copies (Out).
	Source filetree.Source
}

// Out starts to copy from a container; Archive must be read, then Wait called.
// The end of ctx ends it.
func Out(ctx context.Context, p Place, path string, follow bool) (*Copy, error) {
	c, err := start(ctx, p, copier.Out, &copier.Arguments{Path: path, Follow: follow}, nil)
	if err != nil {
		return nil, err
	}
	r, err := c.next()
	if err == nil && r.Source == nil {
		err = r.Fault
		if err == nil {
			err = errors.New("the copier does not say what it copies")
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.end())
	}
	c.Source = *r.Source
	return c, nil
}

// In copies the archive into a container.
func In(ctx context.Context, p Place, args copier.Arguments, archive io.Reader) (filetree.Summary, error) {
	c, err := start(ctx, p, copier.In, &args, archive)
	if err != nil {
		return filetree.Summary{}, err
	}
	return c.Wait()
}

// start starts the process: the container's root in a user namespace with the
// container's ids, which has power over its files and no others. It forks this
// process, 5 ms: that is no matter for a copy, and is for a start.
func start(ctx context.Context, p Place, direction string, args *copier.Arguments, archive io.Reader) (*Copy, error) {
	if strings.ContainsRune(args.Path+args.Source.Name, 0) {
		return nil, fault.New(fault.Invalid, "the path %q holds a NUL byte", args.Path)
	}
	image, err := os.Open(p.InitPath) // the process may not reach it by its path
	if err != nil {
		return nil, fault.New(fault.Unavailable, "cannot use the init binary %s: %w", p.InitPath, err)
	}
	defer func() { _ = image.Close() }()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	c := &Copy{report: bufio.NewReader(ours), pipe: ours}
	c.cmd = exec.CommandContext(ctx, "/proc/self/fd/5", append([]string{copier.Command, direction}, args.Strings()...)...) //nolint:gosec // our own binary
	c.cmd.Args[0] = "tero-init"
	c.cmd.Env = []string{}
	c.cmd.Dir = "/"
	c.cmd.WaitDelay = lastWords
	c.cmd.Stdin, c.cmd.Stderr = archive, &c.words
	c.cmd.ExtraFiles = []*os.File{p.Root, theirs, image}
	ids := []syscall.SysProcIDMap{{HostID: int(p.HostID), Size: idmap.Size}}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}, Setsid: true,
	}
	if direction == copier.Out {
		archive, err := c.cmd.StdoutPipe()
		if err != nil {
			_ = ours.Close()
			return nil, err
		}
		c.Archive = archive
	}
	if err := c.cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start the copier: %w", err)
	}
	return c, nil
}

// next gives the next line of the report.
func (c *Copy) next() (copier.Report, error) {
	line, err := c.report.ReadString('\n')
	if err != nil {
		return copier.Report{}, fmt.Errorf("the copier ended without a report: %w", err)
	}
	return copier.ParseReport(line)
}

// Wait gives how the copy ended.
func (c *Copy) Wait() (filetree.Summary, error) {
	r, err := c.next()
	ended := c.end()
	switch {
	case err != nil:
		return filetree.Summary{}, errors.Join(err, ended)
	case r.Fault != nil:
		return filetree.Summary{}, r.Fault
	case r.Done == nil:
		return filetree.Summary{}, errors.New("the copier does not say how it ended")
	}
	return *r.Done, nil
}

// Cancel ends a copy that nobody waits for.
func (c *Copy) Cancel() {
	_ = c.cmd.Process.Kill()
	_ = c.end()
}

func (c *Copy) end() error {
	err := c.cmd.Wait()
	_ = c.pipe.Close()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if err != nil && c.words.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, c.words.String())
	}
	return err
}

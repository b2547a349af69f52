// Package sandbox makes isolated process trees: the native class, by Linux
// namespaces. terod compiles a container's configuration into programs of raw
// system calls; the keeper, a small process that outlives terod, clones the
// processes that run them. What does not depend on the container is done in a
// process that is prepared before anybody asks for it, or when nobody has.
//
//	          terod                         keeper                     child
//	prepare   folders, cgroup, ids,
//	          program            -prepare-> clone3, id maps    -gate->  namespaces, /proc, /sys, /dev
//	                             <-done---                     <-ready- waits
//	Create    takes a prepared one,
//	          limits, root file
//	          system, program
//	Start     files of the network -start->                    -files-> root, mounts, pivot, drop, exec
//	                             <-done---                     <-EOF-   payload runs
//	                                        output -> log file
//	Wait                         <-exit---  reap -> exit file
//
// A sandbox is the folders RunDir/containers/ID and StateDir/containers/ID, from
// Create until Destroy; between End and the next Create, with which a container
// runs again, only the second, with log and writable layer. What is in the first, which is made first and removed
// last, is enough to remove the sandbox without the keeper.
package sandbox

import (
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/internal/grant"
)

// Config says where a Native keeps its things.
type Config struct {
	// StateDir is on disk: container folders with logs, writable layers and exit records.
	StateDir string
	// RunDir holds the keeper's socket and what of a container ends with the
	// machine's run; on tmpfs containers start and go faster.
	RunDir string
	// InitPath is the tero-init binary.
	InitPath string
	// CgroupParent is the cgroup that all containers go under ("tero").
	CgroupParent string
	// Pool is how many sandboxes are prepared ahead of time; 0 for none.
	Pool int
	// Protected are further folders and sockets of TERO's, beside StateDir and
	// RunDir, that no container may be given; see grant.Source.
	Protected []string
	// Volumes has the named volumes; without it there are none.
	Volumes grant.Volumes
	Log     *slog.Logger
}

// Phase is how far a sandbox has come.
type Phase string

// The phases of a sandbox.
const (
	// Created sandboxes wait for Start, or were left in the middle of Create.
	Created Phase = "created"
	// Running sandboxes execute their process.
	Running Phase = "running"
	// Exited sandboxes wait for Destroy or End.
	Exited Phase = "exited"
	// Ended sandboxes are only a log and a writable layer, for the next Create.
	Ended Phase = "ended"
)

// Exit is how a sandbox's first process ended.
type Exit struct {
	// Code is the exit code; 128 plus the signal for a process that was killed.
	Code int `json:"code"`
	// Signal is what killed it; 0 when it exited by itself.
	Signal unix.Signal `json:"signal,omitempty"`
	// OOMKilled is true when a process of the sandbox was killed for lack of
	// memory, its first or any other; when the first was, Signal is SIGKILL.
	OOMKilled bool `json:"oomKilled,omitempty"`
	// Lost is true when nobody saw the end: the keeper itself was killed, and
	// the container with it. Code is 137 then.
	Lost bool      `json:"lost,omitempty"`
	At   time.Time `json:"at"`
}

// Status is a sandbox that exists.
type Status struct {
	ID    workload.ID
	Phase Phase
	// PID is the first process in the host's numbers; 0 when there is none.
	PID int
	// Exit is set in phase Exited.
	Exit *Exit
}

// ExecSpec is a further process in a running sandbox.
type ExecSpec struct {
	Args []string
	// Env is added to the container's own environment; later entries win.
	Env []string
	// Cwd is the working directory; the container's own when empty.
	Cwd string
	// User is "uid[:gid]" or "name[:group]" of the image; the container's own when empty.
	User string
	// Terminal gives the process a pseudo-terminal, see Process.Terminal; the files below are not used then.
	Terminal bool
	// Rows and Columns are the terminal's size from the start; unknown when 0.
	Rows, Columns uint16
	// Stdin, Stdout and Stderr become the process's; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
}

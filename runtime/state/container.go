// Package state keeps the records of the containers of this node: what was
// asked, what was decided, and how it went. A record outlives the daemon; the
// last one written before a crash is the one found after it.
package state

import (
	"time"

	"tero.internal/common/workload"
)

// Phase is where a container is in its life:
//
//	                 restarting
//	                  |      ^
//	                  v      |
//	creating -------> running --> exited --> (removed)
//	    \               ^___________/           ^
//	     \______________________________________/
//
// A container found "creating" after a restart was never acknowledged and is
// undone. A restarting one has exited, and waits for its next launch or is being
// launched; one that somebody starts is exited until it runs.
type Phase string

// The phases.
const (
	Creating   Phase = "creating"
	Running    Phase = "running"
	Restarting Phase = "restarting"
	Exited     Phase = "exited"
)

// Exit is how a container's first process ended.
type Exit struct {
	// Code is the exit code, or 128 plus the signal that ended the process.
	Code int `json:"code"`
	// Signal is 0 when no signal ended it.
	Signal    int       `json:"signal,omitempty"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	At        time.Time `json:"at"`
	// Message is set when Code is TERO's word, not the process's.
	Message string `json:"message,omitempty"`
}

// Container is one container's record.
type Container struct {
	ID     workload.ID        `json:"id"`
	Phase  Phase              `json:"phase"`
	Caller workload.Principal `json:"caller"`
	// Spec is as asked while creating, and final from then on.
	Spec workload.Spec `json:"spec"`
	// Image holds no layers: they are the image store's.
	Image    workload.Image           `json:"image"`
	Verdicts []workload.PluginVerdict `json:"verdicts,omitempty"`
	Grant    workload.Grant           `json:"grant"`
	Evidence workload.Evidence        `json:"evidence"`
	Identity workload.Identity        `json:"identity"`
	Endpoint *workload.Endpoint       `json:"endpoint,omitempty"`
	Created  time.Time                `json:"created"`
	Started  time.Time                `json:"started,omitzero"`
	// Exit is the last one; a container that runs may have it from an earlier run.
	Exit *Exit `json:"exit,omitempty"`
	// Removing is set before anything of an exited container is removed. One
	// that is found so after a restart is removed to the end: its log may be gone.
	Removing bool `json:"removing,omitempty"`

	// Asked is the specification that each launch begins with: as it was asked
	// for, with the changes of updates. Spec is what the last launch made of it.
	Asked workload.Spec `json:"asked,omitzero"`
	// Limits are the present ones of a running container, when an update changed
	// them since its launch, which Spec tells.
	Limits *workload.Resources `json:"limits,omitempty"`
	// Boot names the machine's run in which it was last launched, or tried to be.
	Boot string `json:"boot,omitempty"`
	// Stopped is set by whoever wants it to end, before it is told to.
	Stopped  bool     `json:"stopped,omitempty"`
	Restarts Restarts `json:"restarts,omitzero"`
	// Health is the last status that was told, for one with a health check.
	Health string `json:"health,omitempty"`
}

// Restarts is how far the restarting of a container has come since somebody
// launched or started it.
type Restarts struct {
	Count int `json:"count,omitempty"`
	// Delay is the last back-off, and Next when the launch is or was due.
	Delay time.Duration `json:"delay,omitempty"`
	Next  time.Time     `json:"next,omitzero"`
	// Ended says why there are no more, when the policy alone does not.
	Ended string `json:"ended,omitempty"`
	// Now restarts it at its next exit, whatever the policy.
	Now bool `json:"now,omitempty"`
}

// Leaving tells whether the container is removed as soon as nobody reads it any
// more: whoever waited for its exit may use its name again at once.
func (c *Container) Leaving() bool {
	return c.Phase == Exited && (c.Removing || c.Asked.AutoRemove)
}

// Policy is the present restart policy.
func (c *Container) Policy() workload.Restart { return c.Asked.Restart }

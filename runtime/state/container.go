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
//	creating --> running --> exited --> (removed)
//	    \___________________________________/
//
// A container found "creating" after a restart was never acknowledged and is undone.
type Phase string

// The phases.
const (
	Creating Phase = "creating"
	Running  Phase = "running"
	Exited   Phase = "exited"
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
	Exit     *Exit                    `json:"exit,omitempty"`
	// Removing is set before anything of an exited container is removed. One
	// that is found so after a restart is removed to the end: its log may be gone.
	Removing bool `json:"removing,omitempty"`
}

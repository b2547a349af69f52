// probe is the only program of the bundles: it tells what it sees of its
// container as one JSON object of strings, on one line, or ends as it is told.
//
//	probe look [PATH...]   look around, try to read and write the paths; end with 0
//	probe brief [PATH...]  likewise, but do not make each system call
//	probe hold [PATH...]   likewise, then wait for SIGTERM
//	probe exit N | signal N | call NR ARG...
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(99)
	}
	if m, err := os.ReadFile("/proc/self/uid_map"); err != nil || len(strings.Fields(string(m))) != 3 || strings.Fields(string(m))[1] == "0" {
		os.Exit(96) // what follows is meant to be refused, and is only in a user namespace
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "look":
		tell(look(args))
	case "brief":
		tell(brief(args))
	case "hold":
		c := make(chan os.Signal, 1)
		seen := look(args) // before Notify, which changes signals
		signal.Notify(c, syscall.SIGTERM)
		tell(seen)
		<-c
	case "exit":
		n, _ := strconv.Atoi(args[0])
		tell(view{"probe": "here"})
		os.Exit(n)
	case "signal":
		n, _ := strconv.Atoi(args[0])
		tell(view{"probe": "here"})
		// PID 1 of a pid namespace is immune to its own signals, but for faults
		// that the kernel raises.
		if syscall.Signal(n) == syscall.SIGSEGV {
			fault()
		}
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	case "call":
		os.Exit(callAndExit(args))
	case "nothing":
	default:
		os.Exit(98)
	}
}

// view is what the probe saw, by name.
type view map[string]string

func tell(v view) {
	b, err := json.Marshal(v)
	if err != nil {
		os.Exit(97)
	}
	fmt.Println(string(b))
}

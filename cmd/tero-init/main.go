// tero-init is the parent of all containers of a node and the first process in
// each of them. terod starts it; it is of no use by hand.
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/copier"
	"tero.internal/runtime/keeper"
)

// listenerFD is the descriptor on which terod hands over the listening socket.
const listenerFD = 3

func main() {
	if len(os.Args) > 2 && os.Args[1] == copier.Command {
		os.Exit(copier.Run(os.Args[2:]))
	}
	if len(os.Args) != 2 || os.Args[1] != "keeper" {
		fmt.Fprintln(os.Stderr, "tero-init: this is started by terod (tero-init keeper)")
		os.Exit(2)
	}
	l := log.New(os.Stderr, "", log.LstdFlags|log.LUTC|log.Lmicroseconds)
	if err := keep(l); err != nil {
		l.Fatal(err)
	}
}

func keep(l *log.Logger) error {
	// What the container's processes must not see or touch, not even before
	// their exec: the memory of this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(0o077)
	// Containers end when they are told to, not with a terminal or a service
	// manager that signals whole groups. Handled signals, other than ignored
	// ones, are back at their default in every child.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	if err := unix.SetNonblock(listenerFD, true); err != nil {
		return fmt.Errorf("descriptor %d is not the listening socket: %w", listenerFD, err)
	}
	unix.CloseOnExec(listenerFD)
	k, err := keeper.New(l)
	if err != nil {
		return err
	}
	return k.Serve(os.NewFile(listenerFD, "listener"))
}

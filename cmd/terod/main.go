// terod is the node daemon. It hosts the Runtime, the Network Manager, the
// Plugin Manager, policy and attestation behind one API.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tero.internal/common/fault"
	"tero.internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := daemon.Main(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "terod: error:", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "terod: hint:", hint)
	}
	os.Exit(fault.ExitCode(err))
}

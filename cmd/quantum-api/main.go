// Command quantum-api is the Network Manager on its own: container networks
// under default deny for any runtime that speaks CNI, and a gRPC API to manage
// them. terod hosts the same manager.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tero.internal/common/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "quantum-api: error:", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "quantum-api: hint:", hint)
	}
	os.Exit(fault.ExitCode(err))
}

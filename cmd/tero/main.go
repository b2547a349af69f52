// Command tero is TERO's command line: it runs containers and proves what ran.
package main

import (
	"context"
	"os"

	"tero.internal/cmd/tero/internal/cli"
	"tero.internal/cmd/tero/internal/session"
)

func main() {
	os.Exit(cli.Main(context.Background(), session.New(), os.Args[1:]))
}

// Command tero-cli has all commands of tero, which becomes it when it has to.
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

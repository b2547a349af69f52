package config_test

import (
	"fmt"
	"os"
	"time"

	"tero.internal/common/config"
)

// A binary gives its struct with the defaults in it; flags come first, then
// the environment, then the file.
func Example() {
	type Config struct {
		StateDir string        `yaml:"stateDir" help:"folder for everything that must survive a restart"`
		Grace    time.Duration `yaml:"stopGrace" help:"time between SIGTERM and SIGKILL"`
	}
	c := Config{StateDir: "/var/lib/tero", Grace: 10 * time.Second}

	if err := config.Describe(os.Stdout, &c, "TERO_"); err != nil {
		fmt.Println(err)
	}
	loaded, err := config.Load(&c, config.Source{
		File: "/etc/tero/terod.yaml", Optional: true,
		EnvPrefix: "TERO_", Environ: []string{"TERO_STOP_GRACE=30s"},
		Flags: map[string]string{"stateDir": "/srv/tero"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range loaded.Settings {
		fmt.Printf("%s=%s from %s\n", s.Name, s.Value, s.Origin.Where)
	}
	// Output:
	// # folder for everything that must survive a restart.
	// # A text. Flag --state-dir, environment TERO_STATE_DIR.
	// stateDir: "/var/lib/tero"
	//
	// # time between SIGTERM and SIGKILL.
	// # A duration. Flag --stop-grace, environment TERO_STOP_GRACE.
	// stopGrace: 10s
	// stateDir=/srv/tero from flag --state-dir
	// stopGrace=30s from environment variable TERO_STOP_GRACE
}

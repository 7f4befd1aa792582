package cli

import (
	"fmt"
	"os"
	"slices"

	"sluice/internal/config"
)

const configHelp = `Print the effective settings, and for each who set it: default, file, variable
or flag. Secrets are shown as ****.

  sluice config [--json] [FLAGS OF serve]
  sluice config check FILE          # only say whether a YAML file is right
`

// configure prints the settings that serve would run with, or checks a file.
func configure(args []string, std streams) int {
	if wantsHelp(args) || len(args) > 0 && args[0] == "help" {
		fmt.Fprint(std.out, configHelp)
		return exitOK
	}
	if len(args) > 0 && args[0] == "check" {
		if len(args) != 2 {
			fmt.Fprint(std.err, "sluice config check: want one file\n")
			return exitUsage
		}
		if err := config.Check(args[1], os.ReadFile); err != nil {
			return refuse(std, "config", err)
		}
		fmt.Fprintf(std.out, "%s is right.\n", args[1])
		return exitOK
	}
	asJSON := false
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		asJSON = asJSON || a == "--json"
		return a == "--json"
	})
	cfg, origins, err := config.Load(args, os.Environ(), os.ReadFile)
	if err != nil {
		return refuse(std, "config", err)
	}
	if err := config.Print(std.out, cfg, origins, asJSON); err != nil {
		return failed(std, "config", err)
	}
	return exitOK
}

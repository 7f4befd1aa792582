// Command sluice stands in front of a fleet of LLM inference engines and
// routes each request to the worker that will answer it soonest.
package main

import (
	"os"

	"sluice/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

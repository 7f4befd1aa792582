// Package cli is the commands of the program: what they are called, what they
// print, and how they end.
package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"sluice/internal/version"
)

// How a command ends.
const (
	exitOK     = 0
	exitFailed = 1 // it began, and went wrong
	exitUsage  = 2 // it was told something that makes no sense
)

// A command is what follows the program's name.
type command struct {
	name    string
	aliases []string
	line    string // what it does, for the list
	run     func(args []string, std streams) int
}

// streams are the program's.
type streams struct {
	in       io.Reader
	out, err io.Writer
	json     bool // out is read by programs, which are told there why a command failed
}

// commands returns all commands in the order in which help lists them.
func commands() []command {
	return []command{
		{"serve", []string{"launch", "start"}, "run the gateway (also with flags alone)", serve},
		{"demo", nil, "run a gateway and simulated engines, and say what to try", demo},
		{"mock", nil, "run simulated engines: prefix cache, batching, faults on demand", mockEngines},
		{"bench", nil, "measure any OpenAI-compatible server: TTFT, gaps, errors", benchmark},
		{"replay", nil, "replay a trace on a simulated fleet: which policy suits it, how many workers it needs", replay},
		{"wasm", nil, "begin, inspect, try and time WebAssembly modules", modules},
		{"config", nil, "print the effective settings and who set each; config check FILE", configure},
		{"version", nil, "print version, commit, Go version", printVersion},
	}
}

// Main runs the command that args begin with and returns the exit code. If what
// it prints cannot be written, err says so, and the exit code is not 0.
func Main(args []string, in io.Reader, out, err io.Writer) int {
	p := &printer{w: out, err: err}
	code := runCommand(args, streams{in: in, out: p, err: err})
	if code == exitOK && p.failed.Load() {
		return exitFailed
	}
	return code
}

// runCommand runs the command that args begin with.
func runCommand(args []string, std streams) int {
	for _, a := range args {
		switch a {
		case "--version", "-V", "--version-verbose":
			return printVersion(nil, std)
		case "--":
		default:
			continue
		}
		break
	}
	if len(args) == 0 {
		help(std.out)
		return exitOK
	}
	switch name := args[0]; {
	case name == "help" && len(args) > 1:
		return runCommand(append(slices.Clone(args[1:]), "--help"), std) // help wasm inspect
	case name == "help", name == "-h", name == "--help":
		help(std.out)
		return exitOK
	case strings.HasPrefix(name, "-"):
		return serve(args, std) // as the reference: flags alone serve
	default:
		for _, c := range commands() {
			if c.name == name || contains(c.aliases, name) {
				return c.run(args[1:], std)
			}
		}
		fmt.Fprintf(std.err, "sluice: there is no command %q\n\n", name)
		help(std.err)
		return exitUsage
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func help(w io.Writer) {
	fmt.Fprint(w, `sluice stands in front of a fleet of LLM inference engines. Clients speak
OpenAI's, Anthropic's or SGLang's API to it; it picks a worker for each request
and relays the answer as it comes.

Usage:  sluice COMMAND [FLAGS]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-8s  %s\n", c.name, c.line)
	}
	fmt.Fprint(w, `
Try it without a GPU:     sluice demo
In front of two engines:  sluice serve --worker-urls http://10.0.0.1:8000 http://10.0.0.2:8000
Flags of a command:       sluice COMMAND --help
`)
}

func printVersion(_ []string, std streams) int {
	fmt.Fprintln(std.out, version.String())
	return exitOK
}

// wantsHelp reports whether args ask for help.
func wantsHelp(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "-h" || a == "--help" {
			return true
		}
	}
	return false
}

// refuse prints what is wrong with a command's arguments.
func refuse(std streams, name string, err error) int {
	fmt.Fprintf(std.err, "sluice %s: these settings cannot be used:\n", name)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(std.err, "  - %s\n", line)
	}
	fmt.Fprintf(std.err, "See: sluice %s --help\n", name)
	return exitUsage
}

// failed prints why a command ended: for programs as an object with one member,
// error.
func failed(std streams, name string, err error) int {
	if std.json {
		_ = printJSON(std.out, map[string]string{"error": err.Error()}) // a text can be written as JSON
	}
	fmt.Fprintf(std.err, "sluice %s: %v\n", name, err)
	return exitFailed
}

// onTerminal reports whether people look at w, and how wide it is.
func onTerminal(w io.Writer) (width int, ok bool) {
	if p, ok := w.(*printer); ok {
		w = p.w
	}
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 80, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 40 {
		width = 80
	}
	return width, true
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	"sluice/internal/config"
	"sluice/internal/wasm"
	"sluice/internal/wasm/wrap"
)

// wasmCommands are what follows "sluice wasm", in the order in which help lists
// them.
func wasmCommands() []command {
	return []command{
		{"new", nil, "begin a module: rust, tinygo, go, c, js", wasmNew},
		{"wrap", nil, "make a component of a core module, as build scripts do", wasmWrap},
		{"inspect", nil, "tell what a module is, wants and may do, or why it is refused", wasmInspect},
		{"test", nil, "run requests through a module and show what it changes", wasmTry},
		{"bench", nil, "time a module, in each isolation", wasmBench},
	}
}

const wasmHelp = `Work on WebAssembly modules: middleware that the gateway calls for each request,
each answer and each event of a stream. docs/wasm.md begins at the beginning.

Usage:  sluice wasm COMMAND [FILE] [FLAGS]

`

// modules runs one of the commands about modules.
func modules(args []string, std streams) int {
	cs := wasmCommands()
	if len(args) > 1 && args[0] == "help" {
		return modules([]string{args[1], "--help"}, std)
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || args[0] == "help" {
		if len(args) > 0 && args[0] != "help" && !wantsHelp(args[:1]) {
			fmt.Fprintf(std.err, "sluice wasm: %q stands before the command\n\n", args[0])
			wasmUsage(std.err, cs)
			return exitUsage
		}
		wasmUsage(std.out, cs)
		return exitOK
	}
	var names []string
	for _, c := range cs {
		if c.name == args[0] {
			return c.run(args[1:], std)
		}
		names = append(names, c.name)
	}
	hint := ""
	if n := config.Nearest(args[0], names); n != "" {
		hint = "; did you mean " + n + "?"
	}
	fmt.Fprintf(std.err, "sluice wasm: there is no command %q%s\n\n", args[0], hint)
	wasmUsage(std.err, cs)
	return exitUsage
}

func wasmUsage(w io.Writer, cs []command) {
	fmt.Fprint(w, wasmHelp)
	for _, c := range cs {
		fmt.Fprintf(w, "  %-8s  %s\n", c.name, c.line)
	}
	fmt.Fprint(w, `
From nothing to a module that runs:

  sluice wasm new my-module --lang c
  my-module/build.sh
  sluice wasm test my-module/my-module.wasm --request my-module/test.http
`)
}

// takeOne reads flags and the one argument that there must be beside them.
func takeOne(fs *pflag.FlagSet, args []string, what string) (string, error) {
	if err := parseFlags(fs, args); err != nil {
		return "", err
	}
	switch fs.NArg() {
	case 1:
		return fs.Arg(0), nil
	case 0:
		return "", fmt.Errorf("%s is missing", what)
	}
	return "", fmt.Errorf("%s is %q, and %q follows it; want one", what, fs.Arg(0), fs.Arg(1))
}

// What is said of a module's file that is not there.
const (
	noModule = "its build script makes it, and sluice wasm new makes that"
	noCore   = "want the core module that a compiler has written"
)

// readModule reads a module from wherever it is: who runs this command may read
// what they may read. none follows the word that there is no such file.
func readModule(path, none string) ([]byte, error) {
	b, err := readMost(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("there is no file %s; %s", path, none)
	case errors.Is(err, errTooLong):
		return nil, fmt.Errorf("%s has %w, which is as many as the gateway takes of a module", path, err)
	case err != nil:
		return nil, fmt.Errorf("reading the module: %w", err)
	}
	return b, nil
}

// errTooLong says that a file has more than is read of one.
var errTooLong = fmt.Errorf("more than %d bytes", wasm.MaxBinary)

// readMost reads a file of at most as many bytes as a module may have. What it is
// need not say how long it is: a pipe, or /dev/zero.
func readMost(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, wasm.MaxBinary+1))
	if err == nil && len(b) > wasm.MaxBinary {
		err = errTooLong
	}
	return b, err
}

// readRequests reads a file of requests and answers.
func readRequests(path string) ([]turn, error) {
	text, err := readMost(path)
	switch {
	case errors.Is(err, errTooLong):
		return nil, fmt.Errorf("%s has %w, which is as many as a file of requests may have", path, err)
	case err != nil:
		return nil, fmt.Errorf("reading the requests: %w", err)
	}
	turns, err := readTurns(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return turns, nil
}

// engine starts what modules are run by. stop ends it.
func engine(log *slog.Logger) (e *wasm.Engine, stop func(), err error) {
	e, err = wasm.NewEngine("", log)
	if err != nil {
		return nil, nil, fmt.Errorf("modules cannot be run here: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { _ = e.Run(ctx) }) // it ends with ctx, never with an error
	return e, func() {
		cancel()
		runs.Wait()
		_ = e.Close(context.Background()) // the program is about to end
	}, nil
}

// noComponent adds to an error what can be done about it, if a core module was
// given where a component is wanted.
func noComponent(file string, err error) error {
	if strings.Contains(err.Error(), "it is a core module") {
		return fmt.Errorf("%w; for example: sluice wasm wrap %s --out %s", err, file, strings.TrimSuffix(file, ".wasm")+".component.wasm")
	}
	return err
}

const wrapHelp = `Make a component of a core module, which is what compilers write. The build
scripts of sluice wasm new call it; nothing else is needed for that.

  sluice wasm wrap core.wasm --out my-module.wasm

The module's hooks are told by the names of its exports, such as
sluice:gateway/on-request@0.1.0#on-request. It may import what
sluice:gateway/host@0.1.0 has, and WASI preview 1, of which clocks, chance and
printing are real. Its start function and _initialize are called, in this order,
when all of that is there.
`

// wasmWrap makes a component.
func wasmWrap(args []string, std streams) int {
	opt := struct {
		Out string `flag:"out" help:"file for the component; a core.wasm beside it is not touched"`
	}{}
	fs := flagsOf("wasm wrap", &opt)
	if wantsHelp(args) {
		usage(std.out, wrapHelp, fs)
		return exitOK
	}
	file, err := takeOne(fs, args, "the core module")
	if err == nil && opt.Out == "" {
		err = errors.New("out is missing; name the file for the component, as in --out my-module.wasm")
	}
	if err != nil {
		return refuse(std, "wasm wrap", err)
	}
	b, err := readModule(file, noCore)
	if err != nil {
		return failed(std, "wasm wrap", err)
	}
	if b, err = wrap.Component(b); err != nil {
		return failed(std, "wasm wrap", fmt.Errorf("%s: %w", filepath.Base(file), err))
	}
	if err := os.WriteFile(opt.Out, b, 0o644); err != nil {
		return failed(std, "wasm wrap", fmt.Errorf("writing the component: %w", err))
	}
	fmt.Fprintf(std.out, "%s: %s\n", opt.Out, bytesText(int64(len(b))))
	return exitOK
}

// bytesText writes a number of bytes as people do.
func bytesText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", (n+512)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<19)>>20)
}

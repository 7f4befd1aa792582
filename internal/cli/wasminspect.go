package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"sluice/internal/wasm"
)

const inspectHelp = `Tell what a module is: component or core module, its world, at which hooks it is
called, what it wants of the gateway, how large it is, what it may do, and, if it
cannot be registered, why. It is loaded as a registration does it.

  sluice wasm inspect my-module.wasm
  sluice wasm inspect my-module.wasm --json

What is marked (not called) is no hook. An import that is marked (finds nothing) or
(ends the call) is a library's: it need not matter, if it is not called. The bounds
that are shown are the defaults, which a registration may change.

The exit code is 1 if the module would be refused, which --json tells as refused.
`

// wasmInspect tells what a module is.
func wasmInspect(args []string, std streams) int {
	opt := struct {
		Config string `flag:"config" help:"what an http-wasm module gets as its configuration"`
		JSON   bool   `flag:"json" help:"print the result as JSON, or as error why there is none"`
	}{}
	fs := flagsOf("wasm inspect", &opt)
	if wantsHelp(args) {
		usage(std.out, inspectHelp, fs)
		return exitOK
	}
	file, err := takeOne(fs, args, "the module's file")
	if err != nil {
		return refuse(std, "wasm inspect", err)
	}
	std.json = opt.JSON
	b, err := readModule(file, noModule)
	if err != nil {
		return failed(std, "wasm inspect", err)
	}
	e, stop, err := engine(slog.New(slog.DiscardHandler))
	if err != nil {
		return failed(std, "wasm inspect", err)
	}
	defer stop()
	ctx, end := untilSignal()
	defer end()
	set := wasm.DefaultSettings()
	set.Config = opt.Config
	x := e.Inspect(ctx, b, set)
	if x.Refused != "" {
		x.Refused = noComponent(file, errors.New(x.Refused)).Error()
	}
	if opt.JSON {
		if err := printJSON(std.out, x); err != nil {
			return failed(std, "wasm inspect", err)
		}
	} else {
		printInspection(std.out, filepath.Base(file), x)
	}
	if x.Refused != "" {
		return exitFailed
	}
	return exitOK
}

func printInspection(w io.Writer, name string, x *wasm.Inspection) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-10s  %s\n", label, fmt.Sprintf(format, args...))
	}
	line("file", "%s, %s", name, bytesText(int64(x.Size)))
	line("sha256", "%s", x.Sum)
	line("kind", "%s", x.Kind)
	if x.World != "" {
		line("world", "%s", x.World)
	}
	for _, h := range x.Hooks {
		line("hook", "%s", h.Name)
	}
	notCalled := "" // of a core module some are
	if x.Kind == "component" {
		notCalled = "  (not called)"
	}
	for i, e := range x.Exports {
		if i == mostListed {
			line("", "and %d more", len(x.Exports)-i)
			break
		}
		line("exports", "%s%s", qualified(e), notCalled)
	}
	for _, l := range importLines(x.Imports) {
		line("imports", "%s", l)
	}
	for _, c := range x.Cores {
		line("code", "%s at %#x, %s%s", bytesText(int64(c.Size)), c.Offset, count(c.Functions, "function"), remarks(c))
	}
	if x.Refused != "" {
		line("refused", "%s", x.Refused)
		return
	}
	line("memory", "%s of an instance that stands ready", bytesText(x.Memory))
	line("isolation", "%s%s", x.Isolation, because(x.Because))
	line("loads in", "%s", x.Took.Round(time.Millisecond))
	for _, m := range x.May {
		line("may", "%s", m)
	}
	line("may not", "open files or connections, read the environment, run for more than %s, use more than %s",
		wasm.DefaultSettings().Time, bytesText(int64(wasm.DefaultLimits().MemoryPages)<<16))
}

// mostListed is how many exports that are no hooks are shown.
const mostListed = 40

func qualified(f wasm.InspectedFunc) string {
	if f.Interface == "" {
		return f.Name
	}
	return f.Interface + "#" + f.Name
}

// importLines writes imports, those of an interface on one line. What is refused
// has a line of its own.
func importLines(all []wasm.InspectedImport) (lines []string) {
	type group struct{ iface, note string }
	names := make(map[group][]string)
	var order []group
	for _, im := range all {
		g := group{iface: im.Interface}
		switch {
		case im.Refused != "":
			lines = append(lines, qualified(im.InspectedFunc)+"  refused: "+im.Refused)
			continue
		case im.Does == "nothing":
			g.note = "  (finds nothing)"
		case im.Does == "trap":
			g.note = "  (ends the call)"
		}
		if names[g] == nil {
			order = append(order, g)
		}
		names[g] = append(names[g], im.Name)
	}
	for _, g := range order {
		lines = append(lines, fmt.Sprintf("%s  %s%s", g.iface, strings.Join(names[g], ", "), g.note))
	}
	return lines
}

func remarks(c wasm.InspectedCore) string {
	s := ""
	if c.Memory {
		s += ", has a memory"
	}
	if c.Instances != 1 {
		s += fmt.Sprintf(", %d instances", c.Instances)
	}
	if c.Frozen != "" {
		s += ", cannot be put back: " + c.Frozen
	}
	if c.Refused != "" {
		s += ", refused: " + c.Refused
	}
	return s
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", because " + why
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

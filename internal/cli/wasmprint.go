package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// print writes t for people.
func (t *trial) print(w io.Writer, colour bool) {
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	for i, r := range t.Requests {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%d  %s\n", i+1, r.Request)
		if r.Note != "" {
			fmt.Fprintf(w, "   (%s)\n", r.Note)
		}
		for _, s := range r.Steps {
			name := s.Hook
			if s.Event > 0 {
				name = fmt.Sprintf("%s %d", name, s.Event)
			}
			fmt.Fprintf(w, "   %-12s  %-8s  %8.1f µs\n", name, s.Action, s.Micros)
			if s.Error != "" {
				fmt.Fprintf(w, "     %s\n", paint("31", s.Error))
			}
			for _, d := range s.Diff {
				code := "32"
				if d.Op == "-" {
					code = "31"
				}
				for line := range strings.Lines(d.Text) {
					fmt.Fprintf(w, "     %s\n", paint(code, d.Op+" "+strings.TrimRight(line, "\r\n")))
				}
			}
			for _, l := range s.Says {
				fmt.Fprintf(w, "     %s\n", paint("2", l))
			}
		}
		fmt.Fprintf(w, "   client gets   %s\n", r.outcome())
	}
	if len(t.Counters) > 0 {
		fmt.Fprintln(w)
		for _, name := range slices.Sorted(maps.Keys(t.Counters)) {
			fmt.Fprintf(w, "counted %s: %d\n", name, t.Counters[name])
		}
	}
}

// outcome says what the client gets.
func (t *tried) outcome() string {
	switch {
	case t.Refused != "":
		return fmt.Sprintf("%d %s", t.Status, t.Refused)
	case t.Events > 0:
		return fmt.Sprintf("%d, %s of %s", t.Status, count(t.Bytes, "byte"), count(t.Events, "event"))
	case t.Bytes == 0:
		return fmt.Sprintf("%d, no body", t.Status)
	}
	return fmt.Sprintf("%d, %s", t.Status, count(t.Bytes, "byte"))
}

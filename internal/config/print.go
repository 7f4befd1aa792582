package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Print writes the effective settings and who set each, secrets masked: a
// table for people, or an object by setting for machines.
func Print(w io.Writer, c *Config, o *Origins, asJSON bool) error {
	if asJSON {
		return printJSON(w, c, o)
	}
	lines := [][3]string{{"SETTING", "VALUE", "ORIGIN"}}
	var wide [2]int
	for _, f := range fields() {
		t := f.text(c)
		if t == "" {
			t = "-"
		}
		lines = append(lines, [3]string{f.path(), t, o.Of(f.path())})
	}
	for _, l := range lines {
		for i := range wide {
			// A long list may stand out; it must not push all origins off the screen.
			if n := utf8.RuneCountInString(l[i]); n <= 48 {
				wide[i] = max(wide[i], n)
			}
		}
	}
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", wide[0], l[0], wide[1], l[1], l[2])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printJSON(w io.Writer, c *Config, o *Origins) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i, f := range fields() {
		sep := ",\n  "
		if i == 0 {
			sep = "{\n  "
		}
		fmt.Fprintf(&b, "%s%q: ", sep, f.path())
		err := enc.Encode(struct {
			Value  any    `json:"value"`
			Origin string `json:"origin"`
		}{f.value(c), o.Of(f.path())})
		if err != nil {
			return fmt.Errorf("encoding %s: %w", f.path(), err)
		}
		b.Truncate(b.Len() - 1) // Encode ends with a line feed
	}
	b.WriteString("\n}\n")
	_, err := w.Write(b.Bytes())
	return err
}

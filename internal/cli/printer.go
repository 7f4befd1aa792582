package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
)

// A printer is where commands print to. Commands need not look whether it could
// be written: the printer says so, once and at once, and Main makes the exit code
// of it. Nobody is told of a reader that has left, as head does when it has seen
// enough.
type printer struct {
	w, err io.Writer

	over   atomic.Bool // nothing more can be written
	failed atomic.Bool // and somebody wanted it
}

// Write always returns that b is written.
func (p *printer) Write(b []byte) (int, error) {
	if p.over.Load() {
		return len(b), nil
	}
	if _, err := p.w.Write(b); err != nil && !p.over.Swap(true) && !errors.Is(err, syscall.EPIPE) {
		p.failed.Store(true)
		fmt.Fprintf(p.err, "sluice: the output could not be written: %v\n", err)
	}
	return len(b), nil
}

// printJSON prints v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}

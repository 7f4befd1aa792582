//go:build !linux

package wasm

import "runtime"

// A watch tells whether an instance's memory has pages of its own that are not
// known yet: nothing is known of pages here.
type watch struct {
	slices int // that the call has used up
}

func (w *watch) begin()     {}
func (w *watch) end()       {}
func (w *watch) giveWay()   { w.rest() }
func (w *watch) take() bool { return false }

// unwatched is nil: there is no other way here.
func unwatched() error { return nil }

// watches is of no use: a memory is put back as a whole.
func (in *instance) watches() {}

// waitForNetwork is as good as it gets here.
func waitForNetwork() { runtime.Gosched() }

// cede is left to the system.
func cede() {}

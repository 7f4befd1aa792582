//go:build !linux

package wasm

import "runtime"

// A watch tells whether an instance's memory has pages of its own that are not
// known yet: nothing is known of pages here.
type watch struct{}

func (w *watch) begin()     {}
func (w *watch) end()       {}
func (w *watch) giveWay()   { runtime.Gosched() }
func (w *watch) take() bool { return false }

// unwatched is nil: there is no other way here.
func unwatched() error { return nil }

// watches is of no use: a memory is put back as a whole.
func (in *instance) watches() {}

//go:build !linux && !darwin

package listen

import (
	"io/fs"
	"time"
)

const canReusePort = false

func setReusePort(uintptr) error { panic("BUG: there is no SO_REUSEPORT here") }

// keepAliveInherited: the net package sets it on each connection.
const keepAliveInherited = false

func setKeepAlive(uintptr, time.Duration) error { panic("BUG: keep-alive is not inherited here") }

const hasAbstract = false

// setMode does nothing: here a socket has no mode before it has a file.
func setMode(uintptr, fs.FileMode) error { return nil }

// lockDir does nothing: what this system has in place of locks is not known.
func lockDir(string) (release func(), err error) { return func() {}, nil }

package listen

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

const canReusePort = true

func setReusePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// keepAliveInherited: the net package sets it on each connection.
const keepAliveInherited = false

func setKeepAlive(uintptr, time.Duration) error { panic("BUG: keep-alive is not inherited here") }

const hasAbstract = false

// setMode does nothing: here a socket has no mode before it has a file.
func setMode(uintptr, fs.FileMode) error { return nil }

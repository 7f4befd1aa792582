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

// keepAliveInherited: what is set on the listener holds for each connection
// that it accepts, which then costs four system calls less.
const keepAliveInherited = true

func setKeepAlive(fd uintptr, idle time.Duration) error {
	seconds := func(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(idle)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(keepAliveEvery)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveTries},
	} {
		if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

const hasAbstract = true

// setMode sees to it that the file that binding fd makes never lets in more
// than mode does, not even before its mode is set.
func setMode(fd uintptr, mode fs.FileMode) error {
	return unix.Fchmod(int(fd), uint32(mode.Perm()))
}

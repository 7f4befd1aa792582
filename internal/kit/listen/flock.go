//go:build linux || darwin

package listen

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long another gateway that opens a socket in the same directory is waited
// for, and how often it is asked after. It takes less than a millisecond. What
// counts is how often was asked: while the machine stood still nobody could
// have let go.
const (
	lockTimeout = 2 * time.Second
	lockEvery   = 5 * time.Millisecond
)

// lockDir keeps other gateways from opening sockets in dir until release is
// called. A file system that knows no such locks is used without.
func lockDir(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for asks := int(lockTimeout / lockEvery); ; <-tick.C {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return func() { _ = f.Close() }, nil
		case asks == 0:
			return nil, errors.Join(fmt.Errorf("another program has held the lock of %s for %s", dir, lockTimeout), f.Close())
		}
		asks--
	}
}

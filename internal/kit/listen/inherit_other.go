//go:build !unix

package listen

import (
	"errors"
	"net"
)

func closeOnExec(int) {}

func adopt(int, string) (net.Listener, error) {
	return nil, errors.New("sockets cannot be inherited on this system")
}

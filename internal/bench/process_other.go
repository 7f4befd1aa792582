//go:build !linux

package bench

import (
	"fmt"
	"runtime"
)

type process struct{}

func openProcess(pid int) (*process, error) {
	return nil, fmt.Errorf("measuring process %d: this is possible on Linux only, not on %s", pid, runtime.GOOS)
}

func (*process) use() (use, error) { panic("BUG: no process can be opened here") }

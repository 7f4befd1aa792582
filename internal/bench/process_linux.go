package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ, 100 on all of Go's Linux ports.
const tick = 10 * time.Millisecond

// A process is one that is measured, told from later ones with its number by
// when it began.
type process struct {
	pid   int
	began string
}

func openProcess(pid int) (*process, error) {
	p := &process{pid: pid}
	f, err := p.stat()
	if err != nil {
		return nil, err
	}
	p.began = f[19]
	return p, nil
}

// stat returns the fields of /proc/PID/stat after the name, which may itself
// hold spaces and parentheses: state is field 0.
func (p *process) stat() ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return nil, fmt.Errorf("measuring process %d: %w", p.pid, err)
	}
	i := bytes.LastIndexByte(b, ')')
	var f []string
	for _, s := range bytes.Fields(b[i+1:]) {
		f = append(f, string(s))
	}
	if len(f) < 22 {
		return nil, fmt.Errorf("measuring process %d: /proc/%d/stat has %d fields; want 22", p.pid, p.pid, len(f))
	}
	return f, nil
}

// use returns what all of the process's threads, ended ones too, have used.
func (p *process) use() (use, error) {
	f, err := p.stat()
	if err != nil {
		return use{}, err
	}
	if f[19] != p.began {
		return use{}, fmt.Errorf("measuring process %d: it has ended, and another has its number", p.pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return use{}, fmt.Errorf("measuring process %d: it has ended", p.pid)
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return use{}, fmt.Errorf("measuring process %d: /proc/%d/stat has no numbers where they should be", p.pid, p.pid)
	}
	return use{cpu: time.Duration(user+system) * tick, rss: pages * int64(os.Getpagesize())}, nil
}

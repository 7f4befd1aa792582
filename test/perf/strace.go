package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dataCalls are the system calls that carry bytes. Only these are traced:
// waiting (epoll, futex, nanosleep) and opening and closing connections are
// not of an exchange, and how often they happen depends on the machine.
var dataCalls = []string{"read", "write", "readv", "writev", "recvfrom", "sendto", "recvmsg", "sendmsg", "recvmmsg", "sendmmsg", "splice", "tee", "sendfile", "preadv", "pwritev", "preadv2", "pwritev2"}

// trace puts strace before a proxy that is not started yet. It is its parent,
// so that no rights are needed; with a filter in the kernel all other calls
// cost nothing.
func (x *proxy) trace(file string) error {
	cmd := x.cmd
	path, err := exec.LookPath("strace")
	if err != nil {
		return err
	}
	cmd.Args = append([]string{"strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-yy", "-s", "0", "-o", file, "-e", "trace=" + strings.Join(dataCalls, ","), cmd.Path}, cmd.Args[1:]...)
	cmd.Path, x.traced = path, true
	return nil
}

// A call is a system call in strace's file.
type call struct {
	at   float64 // seconds since 1970
	name string
	file string // what the descriptor is: TCP:[127.0.0.1:1->127.0.0.1:2], a path, …
	idle bool   // it found nothing: EAGAIN
}

// parseCall reads one line. ok is false for lines that are not the beginning
// of a call: the end of one that was interrupted by another thread's, signals.
func parseCall(l string) (c call, ok bool) {
	pid, l, ok := strings.Cut(l, " ")
	if _, err := strconv.Atoi(pid); !ok || err != nil {
		return c, false
	}
	at, l, ok := strings.Cut(strings.TrimLeft(l, " "), " ")
	if !ok {
		return c, false
	}
	var err error
	if c.at, err = strconv.ParseFloat(at, 64); err != nil {
		return c, false
	}
	name, args, ok := strings.Cut(l, "(")
	if !ok || !slices.Contains(dataCalls, name) {
		return c, false
	}
	c.name = name
	if _, file, found := strings.Cut(args, "<"); found {
		// The description may hold a > of its own: TCP:[a->b].
		end := strings.Index(file, ">,")
		if end >= 0 {
			c.file = file[:end]
		}
	}
	c.idle = strings.Contains(l, "= -1 EAGAIN")
	return c, true
}

// side says between whom a call carried bytes: "client" or "worker", or
// "" if it was not on one of these connections.
func (c call) side(gateway int, workers []int) string {
	addrs, ok := strings.CutPrefix(c.file, "TCP:[")
	if !ok {
		return ""
	}
	local, remote, ok := strings.Cut(strings.TrimSuffix(addrs, "]"), "->")
	if !ok {
		return ""
	}
	if port(local) == gateway {
		return "client"
	}
	if slices.Contains(workers, port(remote)) {
		return "worker"
	}
	return ""
}

// port is the port of an address, 0 if it has none.
func port(addr string) int {
	n, err := strconv.Atoi(addr[strings.LastIndex(addr, ":")+1:])
	if err != nil {
		return 0
	}
	return n
}

// A tally counts calls of a span of time by what they were.
type tally struct {
	exchange float64            // on the connections of clients and workers
	other    float64            // log, wake-ups, /metrics
	kinds    map[string]float64 // "client read", "log write", …
}

// count reads what strace wrote, of the time between two moments.
func count(r io.Reader, from, to time.Time, gateway int, workers []int) (tally, error) {
	t := tally{kinds: map[string]float64{}}
	first, last := float64(from.UnixMicro())/1e6, float64(to.UnixMicro())/1e6
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		c, ok := parseCall(s.Text())
		if !ok || c.at < first || c.at > last {
			continue
		}
		kind := c.side(gateway, workers)
		if kind == "" {
			t.other++
			kind, _, _ = strings.Cut(filepath.Base(c.file), ":")
		} else {
			t.exchange++
		}
		kind += " " + c.name
		if c.idle {
			kind += " in vain"
		}
		t.kinds[kind]++
	}
	return t, s.Err()
}

func countFile(name string, from, to time.Time, gateway int, workers []int) (tally, error) {
	f, err := os.Open(name)
	if err != nil {
		return tally{}, err
	}
	defer f.Close()
	return count(f, from, to, gateway, workers)
}

// per tells the kinds of calls for each of n units of work, most first.
func (t tally) per(n float64) string {
	var parts []string
	for _, k := range slices.SortedFunc(maps.Keys(t.kinds), func(a, b string) int { return int(t.kinds[b] - t.kinds[a]) }) {
		if t.kinds[k]/n >= 0.005 {
			parts = append(parts, fmt.Sprintf("%s %.2f", k, t.kinds[k]/n))
		}
	}
	return strings.Join(parts, ", ")
}

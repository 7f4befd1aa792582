package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// family returns a process and all that come from it.
func family(pid int) []int {
	all := []int{pid}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return all
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, family(child)...)
			}
		}
	}
	return all
}

// A ran says for how long the threads of a process and its children have run,
// and for how long they could have run but had to wait for a core.
type ran struct{ cpu, waited time.Duration }

func (r ran) since(earlier ran) ran { return ran{r.cpu - earlier.cpu, r.waited - earlier.waited} }

// runTime reads the scheduler's own account, in nanoseconds.
func runTime(pid int) (sum ran, err error) {
	found := false
	for _, p := range family(pid) {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		if err != nil {
			return sum, err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // the thread has ended
			}
			r, err := parseSchedstat(string(b))
			if err != nil {
				return sum, fmt.Errorf("%s: %w", f, err)
			}
			sum.cpu += r.cpu
			sum.waited += r.waited
			found = true
		}
	}
	if !found {
		return sum, fmt.Errorf("process %d has no schedstat", pid)
	}
	return sum, nil
}

// parseSchedstat reads a thread's schedstat: nanoseconds run, nanoseconds
// waited, and a count.
func parseSchedstat(s string) (ran, error) {
	var r ran
	if _, err := fmt.Sscan(s, &r.cpu, &r.waited); err != nil {
		return r, fmt.Errorf("schedstat %q: %w", strings.TrimSpace(s), err)
	}
	return r, nil
}

var vmRSS = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// rss is the resident memory of a process and its children in KiB.
func rss(pid int) (float64, error) {
	sum := 0.0
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			return 0, err
		}
		m := vmRSS.FindSubmatch(b)
		if m == nil {
			continue // it has ended
		}
		n, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func machine() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(b); m != nil {
			name = string(m[1])
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%s, %d cores, Linux %s", name, runtime.NumCPU(), strings.TrimSpace(string(kernel)))
}

func versions(o options) map[string]string {
	v := map[string]string{"go": runtime.Version()}
	for name, args := range map[string][]string{"haproxy": {"haproxy", "-v"}, "nginx": {"nginx", "-v"}, "gcc": {"gcc", "--version"},
		"sluice": {o.Binary, "version"}, "commit": {"git", "describe", "--always", "--dirty"}} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err == nil {
			v[name], _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
		}
	}
	return v
}

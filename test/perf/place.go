package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// workerPorts is how many workers there seem to be; one process is behind all.
const workerPorts = 4

// A place is a temporary folder with the built tools, and a running worker.
type place struct {
	ctx     context.Context // its end kills the load
	dir     string
	binary  string // sluice
	workers []int  // the worker's ports
	worker  *exec.Cmd
	running *program // worker, once it has been started

	cores string // that the load runs on
	files uint64 // that each process may have open
}

// newPlace builds the tools and starts the worker. close ends it; the end of
// ctx ends no more than the load that runs.
func newPlace(ctx context.Context, binary, source, cores string, files uint64) (*place, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sluice-perf-")
	if err != nil {
		return nil, err
	}
	p := &place{ctx: ctx, dir: dir, binary: binary, cores: cores, files: files}
	if err := p.set(source); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *place) set(source string) error {
	if err := os.Chmod(p.dir, 0o755); err != nil { // nginx's workers may be of another user
		return err
	}
	for _, tool := range []string{"worker", "load", "floor"} {
		out, err := exec.Command("gcc", "-O2", "-o", filepath.Join(p.dir, tool), filepath.Join(source, tool+".c")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("building %s: %w\n%s", tool, err, out)
		}
	}
	var err error
	if p.workers, err = freePorts(workerPorts); err != nil {
		return err
	}
	p.worker = exec.Command(filepath.Join(p.dir, "worker"), fmt.Sprint(p.workers[0]), fmt.Sprint(workerPorts))
	p.worker.Stderr = os.Stderr
	pin(p.worker, lastCore())
	if p.running, err = start(p.worker); err != nil {
		return err
	}
	return p.running.waitFor("the worker", func() bool { status, _ := get(p.workers[0], "/health"); return status == 200 })
}

func (p *place) close() {
	if p.running != nil {
		p.running.stop()
	}
	_ = os.RemoveAll(p.dir)
}

func (p *place) file(name, text string) (string, error) {
	path := filepath.Join(p.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// streams sets how the worker's streams are from now on; events 0 is without
// end.
func (p *place) streams(events, delayMS int) error {
	if status, _ := get(p.workers[0], fmt.Sprintf("/perf/set?events=%d&delay_ms=%d", events, delayMS)); status != 200 {
		return fmt.Errorf("the worker does not take %d events of %d ms", events, delayMS)
	}
	return nil
}

// A loadResult is what the load generator prints; times are in µs.
type loadResult struct {
	Seconds   float64 `json:"seconds"`
	Requests  float64 `json:"requests"`
	Chunks    float64 `json:"chunks"`
	Errors    int     `json:"errors"`
	CPU       float64 `json:"load_cpu"`    // of the load generator, part of a core
	Waited    float64 `json:"load_waited"` // part of the time that it had to wait for a core
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	Longest   float64 `json:"longest"`
	Transit50 float64 `json:"transit50"`
	Transit99 float64 `json:"transit99"`
}

// load runs the load generator. begin and end are called when its measurement
// begins and ends; with -i among the arguments the load waits for begin's
// return.
func (p *place) load(begin, end func() error, args ...string) (loadResult, error) {
	var r loadResult
	cmd := exec.CommandContext(p.ctx, filepath.Join(p.dir, "load"), args...)
	pin(cmd, p.cores)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	if err != nil {
		return r, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := cmd.Start(); err != nil {
		return r, err
	}
	err = follow(out, in, begin, end, &r)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	err = errors.Join(err, cmd.Wait())
	if r.Errors > 0 {
		err = errors.Join(err, fmt.Errorf("%d errors", r.Errors))
	}
	if err != nil {
		return r, fmt.Errorf("load %s: %w\n%s", strings.Join(args, " "), err, complaints.String())
	}
	return r, nil
}

// follow reads what the load generator says.
func follow(out io.Reader, in io.Writer, begin, end func() error, r *loadResult) error {
	var err error
	for s := bufio.NewScanner(out); s.Scan(); {
		switch line := s.Text(); line {
		case "begin":
			err = begin()
			fmt.Fprintln(in) // it may have ended already; that shows elsewhere
		case "end":
			err = end()
		default:
			return json.Unmarshal([]byte(line), r)
		}
		if err != nil {
			return err
		}
	}
	return errors.New("it ended without a result")
}

// pin lets a command that is not started yet run on some cores only. It stays
// the same process.
func pin(cmd *exec.Cmd, cores string) {
	if cores == "" {
		return
	}
	path, err := exec.LookPath("taskset")
	if err != nil {
		return // need has asked for it where it is needed
	}
	cmd.Args = append([]string{"taskset", "-c", cores, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = path
}

func lastCore() string { return fmt.Sprint(runtime.NumCPU() - 1) }

// raiseFileLimit lets this process and its children open n files, as far as
// they may. It returns how many they may.
func raiseFileLimit(n uint64) uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	want := syscall.Rlimit{Cur: n, Max: max(n, l.Max)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) != nil { // only root may raise the maximum
		want = syscall.Rlimit{Cur: min(n, l.Max), Max: l.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) != nil {
			return l.Cur
		}
	}
	return want.Cur
}

func need(tools ...string) error {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is needed: apt-get install gcc libc6-dev util-linux haproxy nginx-light strace", tool)
		}
	}
	return nil
}

// Package program runs the built program for tests that see it only from
// outside: as processes, over HTTP.
package program

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that should come at once, on a
// machine that is busy with other things.
const patience = 30 * time.Second

var (
	build    sync.Once
	binary   string
	buildErr error
)

// Binary builds the program once for a test binary and returns its path. If
// SLUICE_BINARY names one, that is taken instead.
func Binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		if binary = os.Getenv("SLUICE_BINARY"); binary != "" {
			return
		}
		_, file, _, _ := runtime.Caller(0)
		root := filepath.Join(filepath.Dir(file), "..", "..")
		dir, err := os.MkdirTemp("", "sluice-test-")
		if err != nil {
			buildErr = err
			return
		}
		binary = filepath.Join(dir, "sluice")
		cmd := exec.Command("go", "build", "-o", binary, "./cmd/sluice")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("building the program: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return binary
}

// Clean removes what Binary built. Call it at the end of TestMain.
func Clean() {
	if binary != "" && os.Getenv("SLUICE_BINARY") == "" {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
}

// environ is the tests' environment without the settings in it: those are of
// the tests, or of a gateway that whoever runs them uses.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SLUICE_") })
}

// A Process is a running program.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; to be read when done is closed
	out  output
	log  output
}

// Start runs the program with args until the test ends, which kills it.
func Start(t testing.TB, args ...string) *Process {
	t.Helper()
	return start(t, exec.Command(Binary(t), args...))
}

// start runs cmd, which is the program or becomes it.
func start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	args := cmd.Args[1:]
	p := &Process{cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.Env = append(environ(), "GOTRACEBACK=all")
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("sluice %s wrote:\n%s%s", strings.Join(args, " "), p.out.String(), tail(p.log.String()))
		}
	})
	return p
}

func tail(s string) string {
	if len(s) > 16<<10 {
		return "…" + s[len(s)-16<<10:]
	}
	return s
}

// Run runs the program to its end and returns what it wrote and its exit code.
func Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return RunWithin(t, 0, args...)
}

// RunWithin is Run of what takes as long as lasts when all is well.
func RunWithin(t testing.TB, lasts time.Duration, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	binary := Binary(t) // which may have to be built: that is no part of the time
	ctx, cancel := context.WithTimeout(t.Context(), lasts+patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = environ()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what it has written to standard error so far.
func (p *Process) Log() string { return p.log.String() }

// Output returns what it has written to standard output so far.
func (p *Process) Output() string { return p.out.String() }

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Wait waits until it has ended and returns its exit code; -1 if a signal
// ended it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to the log
		<-p.done
		t.Fatalf("sluice did not end within %s:\n%s", patience, tail(p.log.String()))
		return -1
	}
}

// A Gateway is `sluice serve` that listens.
type Gateway struct {
	*Process
	URL        string
	MetricsURL string
}

var serving = regexp.MustCompile(`msg=serving url=(\S+) metrics=(\S+)`)

// Serve starts a gateway on free ports of the loopback with further flags, and
// waits until it listens. It needs text logs at level info.
func Serve(t testing.TB, flags ...string) *Gateway {
	t.Helper()
	return listening(t, Start(t, serveArgs(flags)...))
}

// ServeWith is Serve with at most so many open files.
func ServeWith(t testing.TB, files int, flags ...string) *Gateway {
	t.Helper()
	script := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)
	return listening(t, start(t, exec.Command("sh", append([]string{"-c", script, Binary(t)}, serveArgs(flags)...)...)))
}

func serveArgs(flags []string) []string {
	return append([]string{"serve", "--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"}, flags...)
}

// listening waits until p, a gateway, listens.
func listening(t testing.TB, p *Process) *Gateway {
	t.Helper()
	g := &Gateway{Process: p}
	Eventually(t, "the gateway listens", func() bool {
		select {
		case <-g.done:
			t.Fatalf("the gateway ended:\n%s", g.Log())
		default:
		}
		m := serving.FindStringSubmatch(g.Log())
		if m != nil {
			g.URL, g.MetricsURL = m[1], m[2]
		}
		return m != nil
	})
	return g
}

// WaitReady waits until n workers take requests.
func (g *Gateway) WaitReady(t testing.TB, n int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d workers are ready", n), func() bool {
		_, body := Get(t, g.URL+"/readiness")
		return strings.Contains(body, fmt.Sprintf(`"healthy_workers":%d,`, n)) || n == 0 && strings.Contains(body, "not ready")
	})
}

// Engines is `sluice mock` that listens.
type Engines struct {
	*Process
	URLs []string
}

// Mock starts count simulated engines on free ports with further flags. They
// answer at once unless a flag sets another --speed.
func Mock(t testing.TB, count int, flags ...string) *Engines {
	t.Helper()
	args := append([]string{"mock", "--port", "0", "--count", fmt.Sprint(count), "--speed", "0"}, flags...)
	e := &Engines{Process: Start(t, args...)}
	Eventually(t, "the engines listen", func() bool {
		e.URLs = strings.Fields(e.Output())
		return len(e.URLs) == count
	})
	return e
}

// Fleet starts engines and a gateway before them, and waits until all are
// ready.
func Fleet(t testing.TB, count int, mockFlags, serveFlags []string) (*Gateway, *Engines) {
	t.Helper()
	e := Mock(t, count, mockFlags...)
	g := Serve(t, append([]string{"--worker-urls"}, append(e.URLs, serveFlags...)...)...)
	g.WaitReady(t, count)
	return g, e
}

// Get returns the status and the body that url answers with.
func Get(t testing.TB, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// Eventually waits until ok is true, asking every few milliseconds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// output is what a process writes, to be read while it writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Lines returns what p has logged, line by line.
func (p *Process) Lines() []string {
	var ls []string
	for s := bufio.NewScanner(strings.NewReader(p.Log())); s.Scan(); {
		ls = append(ls, s.Text())
	}
	return ls
}

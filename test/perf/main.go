// Command perf measures what the gateway costs, beside haproxy, nginx and a
// bare relay that do the same work in the same run. It needs Linux, gcc,
// taskset, haproxy and nginx; the gates need gcc and strace only.
//
//	perf          the tables of docs/performance.md, and the raw figures as JSON
//	perf gates    what does not depend on the machine's mood: system calls,
//	              allocations, memory; fails when a bar is not met
//	perf workers  what a request costs by the number of workers, and what these
//	              cost without requests
//
// CPU is what the scheduler accounts to the threads of the proxy under test
// (/proc/PID/task/*/schedstat). Worker and load are programs in C, one thread
// each, that cost next to nothing; see c/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	// A signal ends the load that runs, and so the run: what it has started is
	// stopped.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "gates":
		err = gatesMain(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "workers":
		err = workersMain(ctx, os.Args[2:])
	default:
		err = perfMain(ctx, os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
}

// options are what a run measures.
type options struct {
	Binary  string   `json:"binary"`
	Only    []string `json:"only"`
	Proxies []string `json:"proxies"`
	Cores   []int    `json:"cores"`
	Rounds  int      `json:"rounds"`
	Seconds float64  `json:"seconds"`
	Streams int      `json:"memory_streams"`
	Modules []string `json:"modules,omitempty"`
	out     string
}

func perfMain(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("perf", flag.ContinueOnError)
	f.StringVar(&o.Binary, "binary", "bin/sluice", "the program to measure")
	only := f.String("only", "", "the work to do, by name: "+strings.Join(workNames(), ",")+" (all)")
	proxies := f.String("proxies", "haproxy,nginx,floor,sluice", "what to measure; name=PATH is a further sluice")
	cores := f.String("cores", "both", "1, 2 or both")
	f.IntVar(&o.Rounds, "rounds", 3, "rounds for each work; medians are shown")
	f.Float64Var(&o.Seconds, "seconds", 2, "how long a measurement takes")
	f.IntVar(&o.Streams, "streams", 10000, "streams that are held open for the memory figure")
	f.Func("modules", "a further module to measure, as name=FILE; may be given again", func(s string) error {
		o.Modules = append(o.Modules, s)
		return nil
	})
	f.StringVar(&o.out, "out", "", "file for the raw figures (test/perf/results/DATE.json; - for none)")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.Proxies = strings.Split(*proxies, ",")
	o.Only = workNames()
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	switch *cores {
	case "1":
		o.Cores = []int{1}
	case "2":
		o.Cores = []int{2}
	case "both":
		o.Cores = []int{1, 2}
	default:
		return fmt.Errorf("-cores %q; want 1, 2 or both", *cores)
	}
	if o.out == "" {
		o.out = filepath.Join("test", "perf", "results", time.Now().UTC().Format("2006-01-02-150405")+".json")
	}
	if err := checkNames(o); err != nil {
		return err
	}
	if err := need("gcc", "taskset"); err != nil {
		return err
	}
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for the proxy, one for load and worker")
	}
	samples, err := run(ctx, &o)
	if err != nil {
		return err
	}
	doc := result{Time: time.Now().UTC().Format(time.RFC3339), Machine: machine(), Versions: versions(o), Options: o, Samples: samples}
	table(os.Stdout, doc)
	guestTable(os.Stdout, doc)
	aloneTable(os.Stdout, doc)
	if o.out == "-" {
		return nil
	}
	return doc.write(o.out)
}

// A program is one that has been started.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// start starts cmd.
func start(cmd *exec.Cmd) (*program, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &program{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its ProcessState tells
		close(p.ended)
	}()
	return p, nil
}

// over reports whether p has ended.
func (p *program) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// stop ends p, and may be called again.
func (p *program) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// waitFor polls until ok is true, for a minute at most: a gateway compiles its
// modules before it takes requests. If p ends there is nothing to wait for.
func (p *program) waitFor(what string, ok func() bool) error {
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if p.over() {
			return fmt.Errorf("waited for %s, and it has ended: %s", what, p.cmd.ProcessState)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited a minute for: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

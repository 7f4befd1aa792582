package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// A fleet is a gateway of its own before so many workers, all of which are one
// process.
type fleet struct {
	workers int
	x       *proxy
	idle    float64   // the part of a core that it takes without requests, the mean of all rounds
	cpu     []float64 // µs of CPU for each request, by round
	rate    []float64 // requests a second, by round
}

// workersMain measures what a request costs by the number of workers. What the
// gateway does for workers whether there are requests or not, health checks and
// asking for loads, is measured apart.
func workersMain(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("perf workers", flag.ContinueOnError)
	binary := f.String("binary", "bin/sluice", "the program to measure")
	sizes := f.String("workers", "1,64,1024", "how many workers there are, one gateway for each number")
	policies := f.String("policies", "haproxy,round_robin,least_load,cost", "the policies to measure, one after another; haproxy stands beside them")
	rounds := f.Int("rounds", 12, "measurements of each; the order is another each time")
	seconds := f.Float64("seconds", 0.5, "how long a measurement takes")
	if err := f.Parse(args); err != nil {
		return err
	}
	tools := []string{"gcc", "taskset"}
	if slices.Contains(strings.Split(*policies, ","), "haproxy") {
		tools = append(tools, "haproxy")
	}
	if err := need(tools...); err != nil {
		return err
	}
	var counts []int
	for _, s := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 4096 {
			return fmt.Errorf("-workers %q; want numbers from 1 to 4096", *sizes)
		}
		counts = append(counts, n)
	}
	most := slices.Max(counts)
	files := raiseFileLimit(1 << 17) // a connection to each worker for each client's may be open
	if files < uint64(16*most) {
		return fmt.Errorf("only %d files may be open, %d are needed: raise ulimit -n", files, 16*most)
	}
	p, err := newPlace(ctx, *binary, filepath.Join("test", "perf", "c"), loadCores(1), files)
	if err != nil {
		return err
	}
	defer p.close()
	ports, stop, err := p.manyWorkers(most)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf("%s; %s\n", machine(), versions(options{Binary: *binary})["sluice"])
	for _, policy := range strings.Split(*policies, ",") {
		fleets, err := p.fleets(ports, counts, policy)
		if err == nil {
			err = measureFleets(p, fleets, *rounds, *seconds)
		}
		for _, f := range fleets {
			f.x.stop()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", policy, err)
		}
		fleetTable(os.Stdout, policy, fleets)
	}
	return nil
}

// manyWorkers starts another worker, that listens on n ports.
func (p *place) manyWorkers(n int) (ports []int, stop func(), err error) {
	if ports, err = freePorts(n); err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(filepath.Join(p.dir, "worker"), fmt.Sprint(ports[0]), fmt.Sprint(n))
	cmd.Stderr = os.Stderr
	pin(cmd, lastCore())
	running, err := start(cmd)
	if err != nil {
		return nil, nil, err
	}
	stop = running.stop
	err = running.waitFor("the workers", func() bool { status, _ := get(ports[n-1], "/health"); return status == 200 })
	if err != nil {
		stop()
		return nil, nil, err
	}
	return ports, stop, nil
}

// fleets starts a gateway for each number of workers. Those that it returns with
// an error are to be stopped as well.
func (p *place) fleets(ports, counts []int, policy string) ([]*fleet, error) {
	var all []*fleet
	for _, n := range counts {
		few := *p
		few.workers = ports[:n]
		x, err := gatewayWith(&few, policy)
		if err != nil {
			return all, err
		}
		x.name = fmt.Sprintf("%s before %d", policy, n)
		all = append(all, &fleet{workers: n, x: x})
		if err := x.start(proxyCores(1), n); err != nil {
			return all, err
		}
	}
	return all, nil
}

// gatewayWith returns a gateway with a policy; haproxy is one too, which takes
// its workers in turn. It shows what more workers cost whoever they are behind:
// their connections are not all in the processor's cache.
func gatewayWith(p *place, policy string) (*proxy, error) {
	if policy == "haproxy" {
		return haproxy(p, 1)
	}
	x, err := sluice(p, policy, p.binary)
	if err == nil {
		x.cmd.Args = append(x.cmd.Args, "--policy", policy)
	}
	return x, err
}

// measureFleets measures each several times, in another order each time, after
// one time that does not count: every worker has been given requests then.
func measureFleets(p *place, fleets []*fleet, rounds int, seconds float64) error {
	for round := range rounds + 1 {
		for _, f := range shuffled(fleets) {
			idle, err := f.rest(time.Duration(seconds * float64(time.Second)))
			if err != nil {
				return err
			}
			m, err := measure(p, options{Seconds: seconds}, work{name: "unary", body: 2 << 10, conns: 64, warm: 0.4}, f.x)
			if err != nil {
				return fmt.Errorf("%s: %w", f.x.name, err)
			}
			fmt.Fprintf(os.Stderr, "%-24s %6.2f µs/request, waited %.2f\n", f.x.name, m["cpu_us"], m["waited"])
			if round > 0 {
				// It comes in bursts, so all rounds together say what it is.
				f.idle += idle / float64(rounds)
				f.cpu, f.rate = append(f.cpu, m["cpu_us"]), append(f.rate, m["per_second"])
			}
		}
	}
	return nil
}

// each returns what a request cost in each round by itself.
func (f *fleet) each() []float64 {
	l := slices.Clone(f.cpu)
	for i := range l {
		l[i] -= f.idle * 1e6 / f.rate[i]
	}
	return l
}

// fleetTable compares fleets with the first of them, round by round: what else
// the machine does it does to both. The least is of the rounds in which the
// gateway got on well.
func fleetTable(w io.Writer, policy string, fleets []*fleet) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\tworkers\tCPU µs/request\tleast\tto the first\twithout requests\t\n", policy)
	first := fleets[0].each()
	for _, f := range fleets {
		each := f.each()
		ratios := make([]float64, len(each))
		for i := range each {
			ratios[i] = each[i] / first[i]
		}
		least, most := median(each), slices.Max(f.rate)
		for i := range each {
			if f.rate[i] > most/2 {
				least = min(least, each[i])
			}
		}
		fmt.Fprintf(t, "\t%d\t%.2f\t%.2f\t%.3f\t%.2f %% of a core\t\n", f.workers, median(each), least, median(ratios), 100*f.idle)
	}
	_ = t.Flush()
}

// rest returns what part of a core a gateway without requests takes.
func (f *fleet) rest(d time.Duration) (float64, error) {
	before, err := f.x.runTime()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	<-time.After(d)
	after, err := f.x.runTime()
	return after.since(before).cpu.Seconds() / time.Since(begin).Seconds(), err
}

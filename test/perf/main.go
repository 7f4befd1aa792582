// Command perf measures what the gateway costs a request, beside haproxy doing
// the same work in the same run on the same core. It needs Linux, haproxy,
// nginx, wrk and taskset.
//
// One core runs the proxy under test, the others run the load (wrk) and the
// worker (nginx with a canned answer). CPU is what the kernel accounts to the
// proxy's process, so other work on the machine disturbs it less than it
// disturbs clocks. Rounds alternate in random order.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	binary := flag.String("binary", "bin/sluice", "the program to measure")
	seconds := flag.Int("seconds", 4, "how long one round takes")
	rounds := flag.Int("rounds", 5, "rounds for each proxy")
	connections := flag.Int("connections", 64, "requests that run at once")
	out := flag.String("out", "", "file for the raw figures as JSON")
	flag.Parse()
	if err := run(*binary, *seconds, *rounds, *connections, *out); err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
}

// A round is one measurement.
type round struct {
	Proxy     string  `json:"proxy"`
	Requests  int64   `json:"requests"`
	Errors    int64   `json:"errors"`
	CPUus     float64 `json:"cpu_us_per_request"`
	PerSecond float64 `json:"requests_per_second"`
	RSSMiB    float64 `json:"rss_mib"`
}

// A proxy is a process that listens at addr.
type proxy struct {
	name string
	cmd  *exec.Cmd
	addr string
}

func run(binary string, seconds, rounds, connections int, out string) error {
	for _, tool := range []string{"haproxy", "nginx", "wrk", "taskset"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is needed: apt-get install haproxy nginx-light wrk util-linux", tool)
		}
	}
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for the proxy, one for load and worker")
	}
	dir, err := os.MkdirTemp("", "sluice-perf-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	worker := fmt.Sprintf("127.0.0.1:%d", ports[0])
	stopWorker, err := startNginx(dir, worker)
	if err != nil {
		return err
	}
	defer stopWorker()
	proxies, err := startProxies(dir, binary, worker, ports[1:])
	defer func() {
		for _, p := range proxies {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	}()
	if err != nil {
		return err
	}
	var all []round
	for i := range rounds + 1 { // the first warms up
		rand.Shuffle(len(proxies), func(a, b int) { proxies[a], proxies[b] = proxies[b], proxies[a] })
		for _, p := range proxies {
			r, err := measure(dir, p, seconds, connections)
			if err != nil {
				return err
			}
			if i > 0 {
				all = append(all, r)
			}
		}
	}
	report(os.Stdout, all)
	if out == "" {
		return nil
	}
	b, err := json.MarshalIndent(map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "machine": machine(), "versions": versions(binary),
		"connections": connections, "request_bytes": len(request), "answer_bytes": len(answer), "rounds": all,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}

// request and answer are about 1 KiB each, as a short chat has.
var (
	request = `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("lorem ipsum ", 80) + `"}]}`
	answer  = `{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("dolor sit ", 82) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":160,"completion_tokens":160,"total_tokens":320}}`
)

func startNginx(dir, addr string) (stop func(), err error) {
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log; 
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; default_type application/json; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
server { listen %[2]s backlog=4096;
location = /health { return 200 '{}'; }
location = /v1/models { return 200 '{"object":"list","data":[{"id":"m","object":"model"}]}'; }
location = /v1/chat/completions { return 200 '%[3]s'; }
}}`, dir, addr, answer)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("taskset", "-c", loadCores(), "nginx", "-c", conf)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }, waitFor("http://" + addr + "/health")
}

func startProxies(dir, binary, worker string, ports []int) ([]*proxy, error) {
	ha := &proxy{name: "haproxy", addr: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	conf := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 4096
  nbthread 1
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind %s
  default_backend b
backend b
  server w %s
`, ha.addr, worker)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	ha.cmd = exec.Command("taskset", "-c", "0", "haproxy", "-db", "-q", "-f", conf)
	sl := &proxy{name: "sluice", addr: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	sl.cmd = exec.Command("taskset", "-c", "0", binary, "serve", "--host", "127.0.0.1", "--port", fmt.Sprint(ports[1]),
		"--prometheus-port", fmt.Sprint(ports[2]), "--api-key", "k", "--runtime-worker-threads", "1", "--worker-urls", "http://"+worker)
	log, err := os.Create(filepath.Join(dir, "sluice.log")) // the access log is on
	if err != nil {
		return nil, err
	}
	sl.cmd.Stderr = log
	started := []*proxy{}
	for _, p := range []*proxy{ha, sl} {
		if err := p.cmd.Start(); err != nil {
			return started, fmt.Errorf("starting %s: %w", p.name, err)
		}
		started = append(started, p)
	}
	if err := waitFor("http://" + ha.addr + "/health"); err != nil {
		return started, err
	}
	return started, waitFor("http://" + sl.addr + "/readiness")
}

// measure runs wrk against p and reads what it cost p.
func measure(dir string, p *proxy, seconds, connections int) (round, error) {
	script := filepath.Join(dir, "post.lua")
	lua := fmt.Sprintf("wrk.method='POST'\nwrk.body=%q\nwrk.headers['Content-Type']='application/json'\nwrk.headers['Authorization']='Bearer k'\n", request)
	if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
		return round{}, err
	}
	before, err := cpu(p.cmd.Process.Pid)
	if err != nil {
		return round{}, err
	}
	cmd := exec.Command("taskset", "-c", loadCores(), "wrk", "-t1", "-c", fmt.Sprint(connections), "-d", fmt.Sprintf("%ds", seconds), "-s", script, "http://"+p.addr+"/v1/chat/completions")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return round{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := cpu(p.cmd.Process.Pid)
	if err != nil {
		return round{}, err
	}
	r := round{Proxy: p.name, RSSMiB: rss(p.cmd.Process.Pid)}
	r.Requests = number(out, `(\d+) requests in`)
	r.Errors = number(out, `Non-2xx or 3xx responses: (\d+)`)
	if r.Requests == 0 || r.Errors > 0 {
		return r, fmt.Errorf("%s answered wrongly:\n%s", p.name, out)
	}
	r.CPUus = float64((after - before).Microseconds()) / float64(r.Requests)
	r.PerSecond = float64(r.Requests) / float64(seconds)
	return r, nil
}

// report prints medians and their ratio.
func report(w io.Writer, all []round) {
	fmt.Fprintf(w, "%-8s  %12s  %12s  %10s  %8s\n", "proxy", "CPU µs/req", "(min–max)", "req/s", "RSS MiB")
	med := map[string]float64{}
	for _, name := range []string{"haproxy", "sluice"} {
		var us, rps, mem []float64
		for _, r := range all {
			if r.Proxy == name {
				us, rps, mem = append(us, r.CPUus), append(rps, r.PerSecond), append(mem, r.RSSMiB)
			}
		}
		med[name] = median(us)
		fmt.Fprintf(w, "%-8s  %12.1f  %5.1f–%-6.1f  %10.0f  %8.1f\n", name, med[name], slices.Min(us), slices.Max(us), median(rps), median(mem))
	}
	fmt.Fprintf(w, "sluice costs %.2f times what haproxy costs.\n", med["sluice"]/med["haproxy"])
}

func median(v []float64) float64 {
	s := slices.SortedFunc(slices.Values(v), cmp.Compare)
	return s[len(s)/2]
}

// loadCores are the cores that the proxy does not run on.
func loadCores() string { return fmt.Sprintf("1-%d", runtime.NumCPU()-1) }

// cpu is the time that the threads of a process have run, from the scheduler's
// own account (/proc/PID/task/*/schedstat, nanoseconds).
func cpu(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat", pid)
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

func rss(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return float64(number(b, `VmRSS:\s+(\d+) kB`)) / 1024
}

func number(b []byte, pattern string) int64 {
	m := regexp.MustCompile(pattern).FindSubmatch(b)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func waitFor(url string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		res, err := http.Get(url)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", url, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func machine() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(b)
	if m == nil {
		return runtime.GOARCH
	}
	return fmt.Sprintf("%s, %d cores", m[1], runtime.NumCPU())
}

func versions(binary string) map[string]string {
	v := map[string]string{"go": runtime.Version()}
	for name, args := range map[string][]string{"haproxy": {"haproxy", "-v"}, "sluice": {binary, "version"}, "nginx": {"nginx", "-v"}} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err == nil {
			line, _, _ := bytes.Cut(out, []byte("\n"))
			v[name] = string(line)
		}
	}
	return v
}

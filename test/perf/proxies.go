package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A proxy is a process that listens on a port of the loopback, and passes on
// to the worker's ports.
type proxy struct {
	name    string
	cmd     *exec.Cmd
	port    int
	metrics int      // sluice: the port of /metrics
	log     *os.File // sluice: its log, with the access log
	traced  bool     // cmd is strace, and the proxy its child
	running *program // cmd, once it has been started
}

// proxies prepares the command of each proxy, not yet started.
var proxies = map[string]func(p *place, cores int) (*proxy, error){
	"haproxy": haproxy,
	"nginx":   nginx,
	"floor":   floor,
	"sluice":  func(p *place, cores int) (*proxy, error) { return sluice(p, "sluice", p.binary) },
}

// prepare returns the proxy that is called name in -proxies.
func prepare(p *place, name string, cores int) (*proxy, error) {
	if name, path, ok := strings.Cut(name, "="); ok {
		return sluice(p, name, path)
	}
	return proxies[name](p, cores)
}

// haproxy takes as many connections as it may open files. http-no-delay passes
// chunks on at once; without it haproxy holds them for up to 200 ms and looks
// cheap.
func haproxy(p *place, cores int) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `global
  nbthread %d
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option http-keep-alive
  option http-no-delay
frontend f
  bind 127.0.0.1:%d backlog 8192
  default_backend b
backend b
  balance roundrobin
  http-request set-header Authorization "Bearer k"
`, cores, port)
	for i, w := range p.workers {
		fmt.Fprintf(&b, "  server s%d 127.0.0.1:%d pool-max-conn 16000\n", i, w)
	}
	conf, err := p.file(fmt.Sprintf("haproxy-%d.cfg", port), b.String())
	if err != nil {
		return nil, err
	}
	return &proxy{name: "haproxy", port: port, cmd: exec.Command("haproxy", "-db", "-q", "-f", conf)}, nil
}

// nginx keeps request bodies in memory, as all others do. It drops connections
// when few of its worker_connections are left, so it gets more than it can use.
func nginx(p *place, cores int) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var servers strings.Builder
	for _, w := range p.workers {
		fmt.Fprintf(&servers, "server 127.0.0.1:%d; ", w)
	}
	text := fmt.Sprintf(`daemon off; worker_processes %[1]d; pid %[2]s/nginx-%[3]d.pid; error_log /dev/null crit;
events { worker_connections %[5]d; }
http { access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_body_buffer_size 4m; client_max_body_size 8m;
client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
upstream workers { %[4]s keepalive 8192; keepalive_requests 1000000000; }
server { listen 127.0.0.1:%[3]d backlog=8192;
location / { proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "Bearer k";
proxy_buffering off; proxy_buffer_size 8k; proxy_read_timeout 60s; } } }
`, cores, p.dir, port, servers.String(), 2*p.files)
	conf, err := p.file(fmt.Sprintf("nginx-%d.conf", port), text)
	if err != nil {
		return nil, err
	}
	return &proxy{name: "nginx", port: port, cmd: exec.Command("nginx", "-c", conf)}, nil
}

func floor(p *place, cores int) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{fmt.Sprint(cores), fmt.Sprint(port)}
	for _, w := range p.workers {
		args = append(args, fmt.Sprint(w))
	}
	return &proxy{name: "floor", port: port, cmd: exec.Command(filepath.Join(p.dir, "floor"), args...)}, nil
}

// sluice does more than the others: access log to a file, metrics, a key.
func sluice(p *place, name, binary string) (*proxy, error) { return sluiceWith(p, name, binary, "k") }

func sluiceWith(p *place, name, binary, key string, flags ...string) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	metrics, err := freePort()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, fmt.Sprintf("sluice-%d.log", port)), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "serve", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--prometheus-port", fmt.Sprint(metrics), "--api-key", key)
	cmd.Args = append(append(cmd.Args, flags...), "--worker-urls")
	for _, w := range p.workers {
		cmd.Args = append(cmd.Args, fmt.Sprintf("http://127.0.0.1:%d", w))
	}
	cmd.Stdout, cmd.Stderr = log, log
	return &proxy{name: name, port: port, metrics: metrics, log: log, cmd: cmd}, nil
}

// start runs the proxy on the given cores ("" for any) and waits until it
// takes requests.
func (x *proxy) start(cores string, workers int) error {
	pin(x.cmd, cores)
	var err error
	if x.running, err = start(x.cmd); err != nil {
		return fmt.Errorf("starting %s: %w", x.name, err)
	}
	err = x.running.waitFor(x.name+" to take requests", func() bool {
		if x.metrics == 0 {
			status, _ := get(x.port, "/health")
			return status == http.StatusOK
		}
		status, body := get(x.port, "/readiness")
		return status == http.StatusOK && strings.Contains(body, fmt.Sprintf(`"healthy_workers":%d,`, workers))
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, x.lastWords())
	}
	return nil
}

// lastWords is the end of its log.
func (x *proxy) lastWords() string {
	const most = 2 << 10
	if x.log == nil {
		return ""
	}
	info, err := x.log.Stat()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, min(most, info.Size()))
	n, err := x.log.ReadAt(b, info.Size()-int64(len(b)))
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(b[:n])
}

// stop may be called again.
func (x *proxy) stop() {
	if x.running != nil && !x.running.over() {
		pids := family(x.cmd.Process.Pid)
		if x.traced && len(pids) > 1 {
			pids = pids[1:] // strace ends with it, and writes what it has
		}
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		<-x.running.ended
	}
	if x.log != nil {
		_ = x.log.Close()
	}
}

// runTime is how long the proxy has run; nothing for a worker asked directly.
func (x *proxy) runTime() (ran, error) {
	if x.cmd == nil {
		return ran{}, nil
	}
	return runTime(x.cmd.Process.Pid)
}

// tidy throws away what the access log has grown to.
func (x *proxy) tidy() {
	if x.log != nil {
		_ = x.log.Truncate(0)
	}
}

var client = http.Client{Timeout: 5 * time.Second}

// get asks a port of the loopback; status 0 is no answer.
func get(port int, path string) (status int, body string) {
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(b)
}

// freePort returns a port that nobody listens on now.
func freePort() (int, error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// freePorts returns n ports in a row, below those that the kernel gives to
// connections.
func freePorts(n int) (ports []int, err error) {
	for try := range 1000 {
		first := 10000 + (os.Getpid()*37+len(taken)*7+try*n)%20000
		if ports = portsFrom(first, n); ports != nil {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports in a row", n)
}

var taken = map[int]bool{} // ports that were given away already

func portsFrom(first, n int) []int {
	var ports []int
	for port := first; port < first+n; port++ {
		if taken[port] {
			return nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return nil
		}
		_ = l.Close()
		ports = append(ports, port)
	}
	for _, port := range ports {
		taken[port] = true
	}
	return ports
}

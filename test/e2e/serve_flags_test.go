package e2e

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sluice/test/program"
)

// TestLinesOfTheReference holds that a line for SMG works with the name
// changed.
func TestLinesOfTheReference(t *testing.T) {
	t.Parallel()
	e := program.Mock(t, 2, "--model", "m")
	bare := strings.TrimPrefix(e.URLs[1], "http://")
	for name, args := range map[string][]string{
		"launch":               {"launch", "--worker-urls", e.URLs[0], e.URLs[1], "--policy", "round_robin"},
		"start":                {"start", "--policy", "round_robin", "--worker-urls", e.URLs[0], bare},
		"flags alone":          {"--worker-urls", e.URLs[0], e.URLs[1], "--policy=power_of_two"},
		"underscores":          {"serve", "--worker_urls", e.URLs[0], e.URLs[1], "--request_timeout_secs", "60"},
		"a list flag repeated": {"serve", "--worker-urls", e.URLs[0], "--worker-urls", e.URLs[1]},
		"enable-igw":           {"launch", "--enable-igw", "--worker-urls", e.URLs[0], e.URLs[1]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			p := program.Start(t, append(args, "--host", "127.0.0.1", "--port", port, "--prometheus-port", "0")...)
			url := "http://127.0.0.1:" + port
			program.Eventually(t, "both workers are ready", func() bool {
				_, b := program.Get(t, url+"/readiness")
				return strings.Contains(b, `"healthy_workers":2`)
			})
			if a := post(t, url, chatPath, body(chatPath, false, "")); a.status != 200 {
				t.Errorf("got %d %s", a.status, a.body)
			}
			p.Signal(t, syscall.SIGTERM)
			if code := p.Wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestABadStart ends with code 2 and a sentence for each fault, all at once.
func TestABadStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(file, []byte("server:\n  prot: 1\n  port: 99999\nnonsense: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		says []string
	}{
		{"many faults", []string{"--port", "99999", "--polcy", "random", "--max-payload-size", "0", "--retry-max-retries", "0", "--worker-urls", "ftp://x", "http://y:0"},
			[]string{"99999", "--polcy", "did you mean --policy", "max-payload-size", "retry-max-retries", "ftp://x", "http://y:0"}},
		{"no value", []string{"--port"}, []string{"--port"}},
		{"not a number", []string{"--port", "many"}, []string{"--port", "many"}},
		{"an unknown policy", []string{"--policy", "best"}, []string{"best", "round_robin", "least_load"}},
		{"a feature that is not built", []string{"--service-discovery", "--enable-mesh"}, []string{"--enable-mesh", "not supported yet", "--service-discovery"}},
		{"a file with faults", []string{"--config", file}, []string{"prot", "nonsense"}},
		{"no such file", []string{"--config", filepath.Join(dir, "none.yaml")}, []string{"none.yaml"}},
		{"the same worker twice", []string{"--worker-urls", "http://10.0.0.1:80", "http://10.0.0.1/"}, []string{"10.0.0.1"}},
		{"an external provider", []string{"--backend", "openai"}, []string{"openai", "not supported yet"}},
		{"a stray word", []string{"serv"}, []string{"serv"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := program.Run(t, append([]string{"serve", "--host", "127.0.0.1", "--prometheus-port", "0"}, tt.args...)...)
			if code != 2 || out != "" {
				t.Errorf("exit code %d, want 2; it wrote %q", code, out)
			}
			for _, s := range tt.says {
				if !strings.Contains(errs, s) {
					t.Errorf("%q is not in:\n%s", s, errs)
				}
			}
			if strings.Contains(errs, "goroutine") {
				t.Errorf("it panicked:\n%s", errs)
			}
		})
	}
}

// A gateway that is its own worker would send requests round for ever.
func TestTheGatewayAsItsOwnWorker(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0"} {
		for _, which := range []string{"--port", "--prometheus-port"} {
			port, other := freePort(t), "--prometheus-port"
			if which == other {
				other = "--port"
			}
			_, errs, code := program.Run(t, "serve", "--host", "0.0.0.0", which, port, other, "0", "--worker-urls", "http://"+host+":"+port)
			if code == 0 || !strings.Contains(errs, "gateway's own") {
				t.Errorf("%s as worker (%s): code %d: %s", host, which, code, errs)
			}
		}
	}
}

// A port that is taken is said, with its flag.
func TestAPortThatIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for flag, args := range map[string][]string{"--prometheus-port": {"--port", "0", "--prometheus-port", port}, "API": {"--port", port, "--prometheus-port", "0"}} {
		_, errs, code := program.Run(t, append([]string{"serve", "--host", "127.0.0.1"}, args...)...)
		if code != 1 || !strings.Contains(errs, flag) || !strings.Contains(errs, port) {
			t.Errorf("code %d: %s; want 1 and %s", code, errs, flag)
		}
	}
}

// TestConfigShowsOrigins holds default < file < environment < flag.
func TestConfigShowsOrigins(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(file, []byte("server:\n  port: 1001\n  max_payload_size: 1002\nretry:\n  max_retries: 3\npolicy:\n  name: random\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program.Binary(t), "config", "--json", "--config", file, "--port", "3001")
	cmd.Env = []string{"SLUICE_MAX_PAYLOAD_SIZE=2002", "SLUICE_PORT=2001"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]struct {
		Value  any
		Origin string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for path, want := range map[string]struct {
		value  any
		origin string
	}{
		"server.port":               {3001.0, "flag --port"},
		"server.max_payload_size":   {2002.0, "SLUICE_MAX_PAYLOAD_SIZE"},
		"retry.max_retries":         {3.0, "sluice.yaml"},
		"policy.name":               {"random", "sluice.yaml"},
		"retry.initial_backoff_ms":  {50.0, "default"},
		"health.check_timeout_secs": {5.0, "default"},
	} {
		if g := got[path]; g.Value != want.value || !strings.Contains(g.Origin, want.origin) {
			t.Errorf("%s is %v by %q, want %v by %q", path, g.Value, g.Origin, want.value, want.origin)
		}
	}
	if out, errs, code := program.Run(t, "config", "check", file); code != 0 || !strings.Contains(out, "right") {
		t.Errorf("config check: code %d %s%s", code, out, errs)
	}
}

// What is asked about the program is answered on standard output, with 0.
func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--worker-urls":  {"serve", "--help"},
		"--fault":        {"mock", "-h"},
		"sluice demo":    {},
		"sluice COMMAND": {"help"},
		"go1.":           {"version"},
		"go1":            {"--version"},
		"bench":          {"help", "bench"},
	} {
		out, errs, code := program.Run(t, args...)
		if code != 0 || !strings.Contains(out, want) || errs != "" {
			t.Errorf("sluice %v: code %d, want %q in:\n%s%s", args, code, want, out, errs)
		}
	}
	if _, errs, code := program.Run(t, "sevre"); code != 2 || !strings.Contains(errs, "sevre") {
		t.Errorf("an unknown command: code %d: %s", code, errs)
	}
}

package e2e

import (
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sluice/test/program"
)

// TestDemo does what the demo says one should try.
func TestDemo(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "demo", "--port", "0", "--prometheus-port", "0", "--worker-port", "0")
	program.Eventually(t, "it says what to try", func() bool { return strings.Contains(p.Output(), "Ctrl-C") })
	out := p.Output()
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no %s in:\n%s", pattern, out)
		}
		return m[1]
	}
	url, metrics := find(`gateway +(http://\S+)`), find(`metrics +(http://\S+)`)
	engines := strings.Fields(find(`workers +(http://.*)`))
	if len(engines) != 4 {
		t.Errorf("%d engines, want 4", len(engines))
	}
	if curl, err := exec.LookPath("curl"); err == nil {
		line := find(`(?s)(curl -N .*?\}'\n)`)
		got, err := exec.Command("sh", "-c", strings.Replace(line, "curl", curl+" -sS", 1)).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(got), "data: [DONE]\n\n") {
			t.Errorf("%s\ngives %v: %.400s", line, err, got)
		}
		kill := find(`(curl -X POST '\S+/mock/kill\S*')`)
		if got, err := exec.Command("sh", "-c", strings.Replace(kill, "curl", curl+" -sS", 1)).CombinedOutput(); err != nil {
			t.Errorf("%s gives %v: %s", kill, err, got)
		}
	}
	for range 8 { // one engine is away, and nobody notices
		if a := post(t, url, chatPath, of("demo", body(chatPath, false, ""))); a.status != 200 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	if _, m := program.Get(t, metrics); !strings.Contains(m, "smg_router_requests_total") {
		t.Error("the metrics do not show the requests")
	}
	p.Signal(t, os.Interrupt)
	if code := p.Wait(t); code != 0 || !strings.Contains(p.Output(), "has ended") {
		t.Errorf("Ctrl-C: code %d", code)
	}
}

// TestDemoPorts holds the ports that the README's lines name, which the other
// tests put off in favour of free ones.
func TestDemoPorts(t *testing.T) {
	t.Parallel()
	out, _, code := program.Run(t, "demo", "--help")
	for flag, port := range map[string]string{"port": "30000", "prometheus-port": "29000", "worker-port": "9101"} {
		if !regexp.MustCompile(`--` + flag + ` int[^-]*\(default\s+` + port + `\)`).MatchString(out) {
			t.Errorf("the default of --%s is not %s (code %d):\n%s", flag, port, code, out)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	_, said, code := program.Run(t, "demo", "--port", "0", "--prometheus-port", "0", "--workers", "1", "--worker-port", port)
	if code != 1 || !strings.Contains(said, "--worker-port") {
		t.Errorf("an engine's port that is taken: code %d: %s", code, said)
	}
}

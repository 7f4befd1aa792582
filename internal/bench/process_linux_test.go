package bench

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestProcessIsMeasured(t *testing.T) {
	p, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	before, err := p.use()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		u, err := p.use()
		if err != nil {
			t.Fatal(err)
		}
		if u.cpu > before.cpu+5*tick {
			if u.rss < 1<<20 {
				t.Errorf("memory %d", u.rss)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("10 s of work and no CPU time is seen")
		}
	}
}

func TestProcessThatEnds(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip("cannot start a process: ", err)
	}
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := p.use(); err == nil || !strings.Contains(err.Error(), "measuring process") {
		t.Errorf("got %v", err)
	}
	if _, err := (&process{pid: os.Getpid(), began: "1"}).use(); err == nil || !strings.Contains(err.Error(), "another has its number") {
		t.Errorf("got %v", err)
	}
}

func TestRunOverTCPMeasuresProcessAndClient(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { stream(w, 4, 0, 0) }))
	defer srv.Close()
	r, err := Run(t.Context(), config(func(c *Config) { c.URL, c.Stream, c.Requests, c.PID = srv.URL, true, 500, os.Getpid() }), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests.OK != 500 || r.Process == nil || r.Process.Error != "" || r.Process.RSSMax < 1<<20 || r.Process.Samples < 2 || r.Client.CPUSeconds <= 0 {
		t.Errorf("%+v\n%+v\n%+v\n%+v", r.Requests, r.Errors, r.Process, r.Client)
	}
}

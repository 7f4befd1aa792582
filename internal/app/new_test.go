package app

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sluice/internal/config"
)

// TestAStartThatFails holds that nothing is left of a gateway that could not be
// built: whoever started it may mend the configuration and try again.
func TestAStartThatFails(t *testing.T) {
	for name, spoil := range map[string]func(*config.Config, string){
		"the metrics port is taken": func(c *config.Config, taken string) { c.Metrics.Port, _ = strconv.Atoi(taken) },
		"the health port is taken":  func(c *config.Config, taken string) { c.Server.HealthPort, _ = strconv.Atoi(taken) },
		"no such certificate":       func(c *config.Config, _ string) { c.Listen.CertFile, c.Listen.KeyFile = "none.pem", "none.key" },
		"no such authority of workers": func(c *config.Config, _ string) {
			c.WorkerTLS.CAFiles = []string{"none.pem"}
		},
		"a worker that is itself": func(c *config.Config, _ string) {
			c.Workers.WorkerURLs = []string{"http://127.0.0.1:" + strconv.Itoa(c.Server.Port)}
		},
		"a route log that cannot be": func(c *config.Config, _ string) { c.Receipts.Log = filepath.Join("none", "none", "log") },
	} {
		t.Run(name, func(t *testing.T) {
			other, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			free, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			at := free.Addr().String()
			free.Close()
			_, port, _ := net.SplitHostPort(at)
			_, taken, _ := net.SplitHostPort(other.Addr().String())
			cfg := config.Default()
			cfg.Server.Host, cfg.Metrics.Host, cfg.Metrics.Port = "127.0.0.1", "127.0.0.1", 0
			cfg.Server.Port, _ = strconv.Atoi(port)
			spoil(cfg, taken)
			before := goleak.IgnoreCurrent()
			a, err := New(cfg, slog.New(slog.DiscardHandler), nil)
			if err == nil {
				a.close()
				t.Fatal("it was built")
			}
			l, err := net.Listen("tcp", at)
			if err != nil {
				t.Fatalf("the API's port is still open: %v", err)
			}
			l.Close()
			goleak.VerifyNone(t, before)
		})
	}
}

// TestAStartThatFailsHasNothingToStop: a gateway whose module cannot be loaded has
// served nobody, and does not speak of requests that may end.
func TestAStartThatFailsHasNothingToStop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.wasm")
	if err := os.WriteFile(file, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Server.Host, cfg.Server.Port, cfg.Metrics.Host, cfg.Metrics.Port = "127.0.0.1", 0, "127.0.0.1", 0
	cfg.Wasm.Enable, cfg.Wasm.Modules = true, []string{"m=" + file}
	var told bytes.Buffer
	a, err := New(cfg, slog.New(slog.NewTextHandler(&told, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `modules: `) {
		t.Errorf("it ran and ended with %v", err)
	}
	if strings.Contains(told.String(), "serving") || strings.Contains(told.String(), "stopping") {
		t.Errorf("the log says %s", &told)
	}
}

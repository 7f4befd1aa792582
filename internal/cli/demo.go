package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"sluice/internal/app"
	"sluice/internal/config"
	"sluice/internal/fleet"
	"sluice/internal/kit/linelog"
	"sluice/internal/mock"
	"sluice/internal/server"
)

const demoHelp = `Run a gateway and simulated engines in one process, and say what to try. Needs
no GPU and no network.

  sluice demo
  sluice demo --workers 8 --port 8080 --model my-model
`

// demoConfig is what a demo can be told.
type demoConfig struct {
	Port        int      `flag:"port" help:"port of the gateway; 0 for any free one"`
	MetricsPort int      `flag:"prometheus-port" help:"port of its metrics; 0 for any free one"`
	Workers     int      `flag:"workers" help:"how many engines to simulate"`
	WorkerPort  int      `flag:"worker-port" help:"port of the first engine; 0 for any free ones"`
	Model       string   `flag:"model" help:"name of the model that they serve"`
	Engine      string   `flag:"engine" choices:"sglang,vllm,llamacpp" help:"which engine to imitate"`
	Policy      string   `flag:"policy" help:"how workers are chosen"`
	Wasm        bool     `flag:"enable-wasm" help:"run WebAssembly modules, which are managed over /wasm"`
	Modules     []string `flag:"wasm-module" help:"module that is there from the start, as serve takes them"`
	LogLevel    string   `flag:"log-level" choices:"debug,info,warn,error" help:"least important line that is written; info shows each request"`
}

// demo runs a whole fleet until a signal ends it.
func demo(args []string, std streams) int {
	d := demoConfig{Port: 30000, MetricsPort: 29000, Workers: 4, WorkerPort: mock.DefaultConfig().Port, Model: "demo", Engine: mock.SGLang, Policy: config.Default().Policy.Name, LogLevel: "warn"}
	fs := flagsOf("demo", &d)
	if wantsHelp(args) {
		usage(std.out, demoHelp, fs)
		return exitOK
	}
	if err := parse(fs, args); err != nil {
		return refuse(std, "demo", err)
	}
	engines, cfg, err := d.settings()
	if err != nil {
		return refuse(std, "demo", err)
	}
	log, lines, closeLog, err := logger(cfg.Log, std.err)
	if err != nil {
		return failed(std, "demo", err)
	}
	defer closeLog()
	ctx, stop := untilSignal()
	defer stop()
	stopSaying := context.AfterFunc(ctx, func() { fmt.Fprintln(std.out, "\nEnding; once more Ctrl-C to end at once.") })
	defer stopSaying()
	if err := runDemo(ctx, engines, cfg, log, lines, std.out); err != nil && !errors.Is(err, server.ErrCut) {
		return failed(std, "demo", err)
	}
	fmt.Fprintln(std.out, "The demo has ended.")
	return exitOK
}

// settings returns the engines' and the gateway's.
func (d demoConfig) settings() (mock.Config, *config.Config, error) {
	m := mock.DefaultConfig()
	m.Port, m.Count, m.Models, m.Engine = d.WorkerPort, d.Workers, []string{d.Model}, d.Engine
	cfg := config.Default()
	cfg.Server.Host, cfg.Server.Port = "127.0.0.1", d.Port
	cfg.Metrics.Port, cfg.Policy.Name, cfg.Log.Level = d.MetricsPort, d.Policy, d.LogLevel
	cfg.Wasm.Enable, cfg.Wasm.Modules = d.Wasm || len(d.Modules) > 0, d.Modules
	cfg.Access.ShowWorker = true
	cfg.Server.Grace = 2 * time.Second
	return m, cfg, errors.Join(m.Validate(), cfg.Validate())
}

// runDemo runs engines and gateway until ctx is done, and says so on out.
func runDemo(ctx context.Context, m mock.Config, cfg *config.Config, log *slog.Logger, lines *linelog.Log, out io.Writer) error {
	engines, err := mock.New(m, log)
	if err != nil {
		return err
	}
	if err := engines.Listen(); err != nil {
		return fmt.Errorf("%w (another --worker-port may be free; 0 takes any)", err)
	}
	cfg.Workers.WorkerURLs = engines.URLs()
	gw, err := app.New(cfg, log, lines)
	if err != nil {
		return fmt.Errorf("%w (another --port and --prometheus-port may be free; 0 takes any)", err)
	}
	engineCtx, endEngines := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	var enginesErr error
	wg.Go(func() { enginesErr = engines.Serve(engineCtx) })
	telling, endTelling := context.WithCancel(ctx)
	wg.Go(func() { whenReady(telling, gw, func() { tell(out, gw, m, engines.URLs()) }) })
	err = gw.Run(ctx)
	endTelling() // also if the gateway ended by itself
	endEngines() // after the gateway: its last requests are theirs too
	wg.Wait()
	return errors.Join(err, enginesErr)
}

// whenReady calls f when the first worker takes requests.
func whenReady(ctx context.Context, gw *app.App, f func()) {
	ready := make(chan struct{})
	var once sync.Once
	gw.Fleet().Watch(func(s *fleet.Snapshot) {
		if len(s.Ready) > 0 {
			once.Do(func() { close(ready) })
		}
	})
	select {
	case <-ready:
		f()
	case <-ctx.Done():
	}
}

// tell says what runs and what to try.
func tell(out io.Writer, gw *app.App, m mock.Config, urls []string) {
	me := os.Args[0]
	if strings.ContainsAny(me, " \t") {
		me = "sluice"
	}
	fmt.Fprintf(out, `sluice runs with %[1]d simulated engines. Nothing here needs a GPU.

  gateway   %[2]s
  metrics   %[3]s
  workers   %[4]s

Ask for a stream:

  curl -N %[2]s/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model":"%[5]s","stream":true,"messages":[{"role":"user","content":"Tell me a story."}]}'

Then try:

  who is there         curl %[2]s/workers
  kill a worker        curl -X POST '%[6]s/mock/kill?seconds=10'     (ask on: no request is lost)
  make one fail        curl -d '{"spec":"status=500","seconds":10}' %[6]s/mock/fault
  look at metrics      curl -s %[3]s | grep smg_router
  put it under load    %[7]s bench --url %[2]s --model %[5]s --concurrency 32 --stream

Ctrl-C ends it.
`, len(urls), gw.URL(), gw.MetricsURL(), strings.Join(urls, " "), m.Models[0], urls[0], me)
}

// Package app puts the gateway together: it is the one place that knows every
// part, in the order in which they start and the reverse in which they stop.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"sluice/internal/admin"
	"sluice/internal/backend/relay"
	"sluice/internal/config"
	"sluice/internal/fleet"
	"sluice/internal/gate/hook"
	"sluice/internal/kit/cores"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
	"sluice/internal/kit/trace"
	"sluice/internal/kit/upstream"
	"sluice/internal/policy"
	"sluice/internal/route"
	"sluice/internal/server"
	"sluice/internal/version"
	"sluice/internal/wasm"
)

// An App is a gateway whose ports are open and which serves once it Runs.
type App struct {
	cfg       *config.Config
	log       *slog.Logger
	lines     *linelog.Log // nil for no line a request
	fleet     *fleet.Registry
	metrics   *metric.Registry
	watch     *sock.Watch      // over all connections of the data plane
	client    *upstream.Client // of workers, for requests
	transport *http.Transport  // of workers, for everything else
	front     *server.Front    // of the API
	probes    http.Handler     // of the health port
	tracer    *trace.Tracer    // nil without --enable-trace
	engine    *wasm.Engine     // nil without --enable-wasm
	modules   *wasm.Registry   // likewise
	hooks     *hook.Metrics    // likewise
	router    *route.Router
	recording *recording // nil without --route-log
	ports
	draining atomic.Bool
}

// New builds the gateway that cfg describes and opens its ports. cfg is valid.
// lines is the log of requests, which Run writes; nil for none.
func New(cfg *config.Config, log *slog.Logger, lines *linelog.Log) (*App, error) {
	a := &App{cfg: cfg, log: log, lines: lines, metrics: metric.NewRegistry(cfg.Metrics.Buckets)}
	if cfg.Server.RuntimeThreads > 0 {
		runtime.GOMAXPROCS(cfg.Server.RuntimeThreads)
	}
	if err := a.build(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// build makes the parts. What it has opened when it fails is a's.
func (a *App) build() (err error) {
	cfg, log := a.cfg, a.log
	if err := a.ports.open(cfg, log); err != nil {
		return err
	}
	if a.watch, err = sock.NewWatch(); err != nil {
		return fmt.Errorf("watching connections: %w", err)
	}
	rm, wm, um, sm, pm := new(route.Metrics), new(workerMetrics), new(upstream.Metrics), new(server.Metrics), new(policy.Metrics)
	for _, m := range []any{rm, wm, um, sm, pm} {
		metric.Fill(a.metrics, m)
	}
	a.client = upstream.New(upstream.Options{Watch: a.watch, Config: cfg.Upstream, Metrics: um, Secure: a.workers.Config})
	a.transport = relay.Transport(cfg.Upstream, a.workers.Config)
	backend := relay.New(a.client, a.watch, relay.Config{FirstByte: cfg.Upstream.FirstByte, Between: cfg.Upstream.Silence, TunnelIdle: cfg.Server.TunnelIdle, TunnelHalf: cfg.Server.TunnelHalf})
	a.fleet = fleet.New(cfg.Workers, cfg.Health, cfg.Breaker, fleet.Options{
		Transport: a.transport,
		Self:      server.IsSelf(a.addrs()...),
		Log:       log,
		Events:    wm.events(backend.Forget),
	})
	if a.recording, err = openRecording(cfg.Receipts.Log, log); err != nil {
		return err
	}
	settings := cfg.PolicySettings()
	settings.Metrics, settings.Log, settings.Prefixes = pm, log, policy.NewPrefixes(cfg.Cost)
	a.router = route.New(route.Options{
		Config: cfg.Retry, Backends: route.Backends{HTTPRegular: backend}, Aliases: cfg.Routing.Aliases(),
		Policies: route.Policies{
			New:  func(name string) (policy.Policy, error) { return policy.New(name, settings) },
			Name: cfg.Policy.Name, Prefill: cfg.Policy.For(fleet.Prefill), Decode: cfg.Policy.For(fleet.Decode),
		},
		BackPressure: relay.BackPressure, Shed: cfg.Workers.OverShed, Metrics: rm, Log: log,
		Receipts: cfg.Receipts.Keep, Explain: a.explains, Record: a.recording.trace(),
	})
	if err := a.openModules(); err != nil {
		return err
	}
	if err := a.addWorkers(); err != nil {
		return err
	}
	a.fleet.Watch(a.router.Publish) // after the first workers: each of them would cost a table
	wm.watch(a.fleet)
	adm := admin.New(admin.Options{
		Fleet: a.fleet, Models: func() []string { return a.router.Table().Models() }, Recent: a.router.Recent, Modules: a.modules, Transport: a.transport,
		Kept: cfg.Receipts.Keep, Own: func(name string) string { return a.router.Table().Own(name) },
		Routed:   func() *fleet.Snapshot { return a.router.Table().Snapshot() },
		Draining: a.draining.Load, Version: "sluice-" + version.Version,
	})
	if err := a.openTraces(); err != nil { // last, so that nothing that fails leaves it open
		return err
	}
	api, probes := a.muxes(a.router, adm)
	a.front = server.NewFront(server.Options{Config: cfg.Server, Handler: api, Watch: a.watch, Log: log, Metrics: sm})
	a.probes = server.HTTPHandler(probes)
	return nil
}

// close closes what New has opened and Run will not.
func (a *App) close() {
	a.ports.close()
	_ = a.recording.close()
	if a.watch != nil {
		a.watch.Close()
	}
}

// addWorkers registers the workers named at the start, which get the gateway's
// own key, as the contract has it. What is wrong with them is a fault of the
// configuration that could be seen only now: the ports had to be open.
func (a *App) addWorkers() error {
	var f config.Faults
	for _, s := range a.cfg.Workers.WorkerURLs {
		u, err := fleet.ParseURL(s, true)
		if err == nil {
			_, err = a.fleet.Add(fleet.Spec{URL: u.String(), APIKey: a.cfg.Auth.APIKey})
		}
		if err != nil {
			f.List = append(f.List, fmt.Sprintf("worker-urls: %v", err))
		}
	}
	if len(f.List) > 0 {
		return &f
	}
	return nil
}

// Fleet returns the workers' registry.
func (a *App) Fleet() *fleet.Registry { return a.fleet }

// A part is something that runs as long as the gateway does.
type part struct {
	name  string
	run   func(context.Context) error
	ready func(context.Context) error // what has to be done once it runs, before the next part starts; nil for nothing
}

// Run serves until ctx is done, drains, and returns when nothing is left. The
// parts start in order and stop in reverse, each before the next is told to.
func (a *App) Run(ctx context.Context) error {
	defer a.ports.close()
	defer a.transport.CloseIdleConnections()
	a.warnIfOpen()
	for _, sentence := range a.cfg.Idle() {
		a.log.Warn("a setting has no effect", "why", sentence)
	}
	parts := []part{
		{name: "log", run: a.lines.Run}, // first, so that the last request's line is written
		{name: "route log", run: a.recording.run},
		{name: "modules", run: a.runModules, ready: a.loadModules},
		{name: "traces", run: a.runTraces}, // before all that has spans, so that the last is sent
		{name: "memory", run: a.runMemory},
		{name: "cores", run: a.runCores},
		{name: "connections", run: a.runConnections},
		{name: "certificates", run: a.ports.watch},
		{name: "routes", run: a.router.Run}, // before all that publishes
		{name: "fleet", run: a.fleet.Run},
		{name: "metrics", run: a.runObserve},
		{name: "health", run: a.runHealth},
		{name: "api", run: a.runAPI},
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stops []func() error
	for _, p := range parts {
		stops = append(stops, start(ctx, p, cancel))
		if p.ready == nil {
			continue
		}
		if err := p.ready(ctx); err != nil {
			cancel(fmt.Errorf("%s: %w", p.name, err))
			break
		}
	}
	served := ctx.Err() == nil
	if served {
		a.log.Info("serving", "url", a.URL(), "metrics", a.MetricsURL(), "policy", a.cfg.Policy.Name, "workers", len(a.cfg.Workers.WorkerURLs))
	}
	<-ctx.Done()
	a.draining.Store(true)
	if served {
		a.log.Info("stopping: running requests may end", "grace", a.cfg.Server.Grace.String())
	}
	var errs []error
	for i := len(stops) - 1; i >= 0; i-- {
		errs = append(errs, stops[i]())
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// start runs p until the returned function is called, which waits for its end.
// A part that ends by itself with an error ends the gateway.
func start(ctx context.Context, p part, cancel context.CancelCauseFunc) (stop func() error) {
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := p.run(own)
		if err != nil && own.Err() == nil {
			cancel(fmt.Errorf("%s: %w", p.name, err))
			err = nil
		}
		done <- err
	}()
	return func() error {
		end()
		return <-done
	}
}

// runCores lets as many cores work as there is work for.
func (a *App) runCores(ctx context.Context) error {
	if a.cfg.Server.FixedThreads {
		<-ctx.Done()
		return nil
	}
	return cores.NewKeeper(runtime.GOMAXPROCS(0)).Run(ctx)
}

// runConnections looks after the connections of the data plane, until the last
// is closed.
func (a *App) runConnections(ctx context.Context) error {
	defer a.client.Close()
	return a.watch.Run(ctx)
}

// runAPI serves clients, and drains when ctx is done.
func (a *App) runAPI(ctx context.Context) error {
	a.awaitWorkers(ctx)
	return a.front.Serve(ctx, a.api...)
}

// runHealth serves the health port, to the end of the drain.
func (a *App) runHealth(ctx context.Context) error {
	if a.health == nil {
		return nil
	}
	return server.Serve(ctx, a.sideServer(a.probes), a.health, sideGrace)
}

// runObserve serves metrics, and profiles if they are asked for.
func (a *App) runObserve(ctx context.Context) error {
	return server.Serve(ctx, a.sideServer(observe(a.metrics, a.cfg.Metrics.Pprof)), a.observe, sideGrace)
}

// sideGrace is how long a probe or scrape may hold up the end.
const sideGrace = time.Second

func (a *App) sideServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: a.cfg.Server.HeaderReadTimeout, ReadTimeout: a.cfg.Server.HeaderReadTimeout,
		IdleTimeout: a.cfg.Server.IdleTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// warnIfOpen says once what a stranger can do.
func (a *App) warnIfOpen() {
	if a.cfg.Auth.Keyed() {
		return
	}
	for _, l := range a.api {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			a.log.Warn("no --api-key: everybody who can reach the port may send requests; workers can be changed from this machine only", "addr", tcp.String())
		}
	}
}

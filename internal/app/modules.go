package app

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"sluice/internal/gate/hook"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/server"
	"sluice/internal/wasm"
)

// openModules makes what runs modules, if they are enabled.
func (a *App) openModules() (err error) {
	cfg := a.cfg.Wasm
	if !cfg.Enable {
		return nil
	}
	compiled, kept := "", ""
	if cfg.StateDir != "" {
		compiled, kept = filepath.Join(cfg.StateDir, "compiled"), filepath.Join(cfg.StateDir, "modules")
	}
	if a.engine, err = wasm.NewEngine(compiled, a.log); err != nil {
		return fmt.Errorf("wasm-state-dir: %w", err)
	}
	a.modules = wasm.NewRegistry(a.engine, kept, a.log)
	if !a.cfg.Auth.TrustTenant {
		a.modules.OnlyTenants(a.cfg.Auth.Tenants())
	}
	a.hooks = new(hook.Metrics)
	metric.Fill(a.metrics, a.hooks)
	return nil
}

// hook is the gate that calls modules, and what says whether one is for a
// request; without them it is none, and nil.
func (a *App) hook() (pass infer.Gate, asked func(*infer.Request) bool) {
	if a.modules == nil {
		return func(next infer.Handler) infer.Handler { return next }, nil
	}
	own := func(model string) string { return a.router.Table().Own(model) }
	return hook.New(hook.Options{Modules: a.modules, Look: server.Look, LookHeader: server.LookHeader, Endpoint: endpoint, Own: own, Timeout: a.cfg.Retry.Timeout,
		Log: a.log, Metrics: a.hooks})
}

// endpoint is the call of workers that a method and a path are.
func endpoint(method, path string) (infer.Endpoint, bool) {
	if path == "/rerank" {
		path = infer.Rerank.Path()
	}
	i := slices.IndexFunc(infer.Endpoints(), func(e infer.Endpoint) bool { return e != infer.Realtime && e.Path() == path })
	if i < 0 || method != http.MethodPost {
		return infer.Local, false
	}
	return infer.Endpoints()[i], true
}

// runModules ends calls of modules that take too long, and the modules when ctx
// is done.
func (a *App) runModules(ctx context.Context) error {
	if a.engine == nil {
		<-ctx.Done()
		return nil
	}
	err := a.engine.Run(ctx)
	a.modules.Close()
	return err
}

// loadModules compiles the modules that there are from the start: those of the
// configuration, and those of the last run. One that cannot be had ends the
// gateway: it may be the one that guards the door.
func (a *App) loadModules(ctx context.Context) error {
	if a.modules == nil {
		return nil
	}
	begin := time.Now()
	for _, text := range a.cfg.Wasm.Modules {
		s, err := wasm.ParseSpec(text)
		if err != nil {
			return fmt.Errorf("wasm-module %s: %w", wasm.SpecFile(text), err)
		}
		b, err := wasm.ReadFile(s.Path)
		if err == nil {
			_, err = a.modules.Add(ctx, s, b)
		}
		if err != nil {
			return fmt.Errorf("wasm-module %s: %w", wasm.SpecFile(text), err)
		}
	}
	if err := a.modules.Restore(ctx); err != nil { // after those of the configuration, which wins
		return fmt.Errorf("bringing back the modules in %s: %w", a.cfg.Wasm.StateDir, err)
	}
	if n := len(a.modules.Set().All); n > 0 {
		a.log.Info("modules are loaded", "modules", n, "took", time.Since(begin).Round(time.Millisecond).String())
	}
	return nil
}

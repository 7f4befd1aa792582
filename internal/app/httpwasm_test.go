package app

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/http-wasm/http-wasm-host-go/tck"

	"sluice/internal/gate/hook"
	"sluice/internal/infer"
	"sluice/internal/kit/metric"
	"sluice/internal/kit/sock"
	"sluice/internal/server"
	"sluice/internal/wasm"
)

// modules returns the gate of a registry that holds one module.
func modules(t testing.TB, s wasm.Spec, binary []byte) infer.Gate {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	e, err := wasm.NewEngine("", log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r := wasm.NewRegistry(e, "", log)
	t.Cleanup(func() {
		r.Close()
		cancel()
		<-done
	})
	if _, err := r.Add(ctx, s, binary); err != nil {
		t.Fatal(err)
	}
	m := new(hook.Metrics)
	metric.Fill(metric.NewRegistry([]float64{0.001, 1}), m)
	return hook.Gate(hook.Options{Modules: r, Look: func(*infer.Request) error { return nil }, Log: log, Metrics: m})
}

// backend answers as the TCK wants to be answered behind its module.
func backend(_ context.Context, r *infer.Request, w *infer.Reply) error {
	uri := r.Path
	if r.Query != "" {
		uri += "?" + r.Query
	}
	hr := httptest.NewRequest(r.Method, uri, nil)
	for _, f := range r.Header.Fields() {
		hr.Header.Add(string(f.Name), string(f.Value))
	}
	rec := httptest.NewRecorder()
	tck.BackendHandler().ServeHTTP(rec, hr)
	for name, values := range rec.Header() {
		for _, v := range values {
			w.Header().AddString(name, v)
		}
	}
	w.Header().Set("Content-Length", "0")
	w.Commit(rec.Code)
	return nil
}

// strict is a client's transport that fails at each answer in which the kit's
// module says that something is wrong: it may have gone on all the same.
type strict struct {
	t *testing.T
	http.RoundTripper
}

func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.RoundTripper.RoundTrip(r)
	if err == nil && res.Header.Get("X-Httpwasm-Tck-Failed") != "" {
		s.t.Errorf("%s: %s", r.Header.Get("X-Httpwasm-Tck-Testid"), res.Header.Get("X-Httpwasm-Tck-Failed"))
	}
	return res, err
}

// TestHTTPWasmKit runs the conformance kit of http-wasm: its module at our gate,
// behind both of our front ends.
func TestHTTPWasmKit(t *testing.T) {
	gate := modules(t, wasm.Spec{Name: "tck", Settings: wasm.DefaultSettings(), FailClosed: true}, tck.GuestWASM)
	h := infer.Chain(infer.HandlerFunc(func(ctx context.Context, r *infer.Request, w *infer.Reply) error {
		if err := r.ReadBody(1 << 20); err != nil {
			return err
		}
		return infer.Chain(infer.HandlerFunc(backend), gate).Serve(ctx, r, w)
	}))
	t.Run("net/http", func(t *testing.T) {
		s := httptest.NewServer(server.HTTPHandler(h))
		t.Cleanup(s.Close)
		tck.Run(t, &http.Client{Transport: strict{t, s.Client().Transport}}, s.URL)
	})
	t.Run("h2", func(t *testing.T) {
		s := httptest.NewUnstartedServer(server.HTTPHandler(h))
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		tck.Run(t, &http.Client{Transport: strict{t, s.Client().Transport}}, s.URL)
	})
	t.Run("own", func(t *testing.T) {
		var routes []server.Route
		for _, path := range []string{"/", "/simple", "/simple%26clean", "/animal", "/disney", "/get_protocol_version"} {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"} {
				routes = append(routes, server.Route{Method: method, Pattern: path, Handler: h})
			}
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		watch, err := sock.NewWatch()
		if err != nil {
			t.Fatal(err)
		}
		f := server.NewFront(server.Options{Config: server.DefaultConfig(), Handler: server.NewMux(routes), Watch: watch, Log: slog.New(slog.DiscardHandler)})
		serving, stop := context.WithCancel(context.Background())
		watching, unwatch := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = watch.Run(watching) })
		served := make(chan error, 1)
		go func() { served <- f.Serve(serving, l) }()
		t.Cleanup(func() {
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
			unwatch()
			wg.Wait()
		})
		tr := new(http.Transport)
		t.Cleanup(tr.CloseIdleConnections)
		tck.Run(t, &http.Client{Transport: strict{t, tr}}, "http://"+l.Addr().String())
	})
}

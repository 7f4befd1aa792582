package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sluice/internal/app"
	"sluice/internal/config"
	"sluice/internal/kit/linelog"
	"sluice/internal/kit/logfile"
)

const serveHelp = `Run the gateway: it listens for requests and relays each to a worker.

  sluice serve --worker-urls http://10.0.0.1:8000 http://10.0.0.2:8000
  sluice serve --config sluice.yaml --port 8080
  sluice serve                      # workers come later: POST /workers {"url": …}

Settings come from the defaults, a YAML file, the environment and flags; each
overrides the ones before it. "sluice config" with the same flags shows what
they come to. SIGTERM lets running requests end; a second one ends at once.
`

// serve runs the gateway until a signal ends it.
func serve(args []string, std streams) int {
	if wantsHelp(args) {
		fmt.Fprint(std.out, serveHelp, "\n")
		width, _ := onTerminal(std.out)
		config.Usage(std.out, width)
		return exitOK
	}
	cfg, _, err := config.Load(args, os.Environ(), os.ReadFile)
	if err != nil {
		return refuse(std, "serve", err)
	}
	log, lines, closeLog, err := logger(cfg.Log, std.err)
	if err != nil {
		return failed(std, "serve", err)
	}
	slog.SetDefault(log) // what libraries print goes to our log
	slog.SetLogLoggerLevel(slog.LevelDebug)
	defer closeLog()
	a, err := app.New(cfg, log, lines)
	var faults *config.Faults
	if errors.As(err, &faults) {
		return refuse(std, "serve", err)
	}
	if err != nil {
		return failed(std, "serve", err)
	}
	ctx, stop := untilSignal()
	defer stop()
	if err := a.Run(ctx); err != nil {
		return failed(std, "serve", err)
	}
	return exitOK
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. A
// second one ends the program at once, as if nobody had asked for either.
func untilSignal() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	came := make(chan os.Signal, 2)
	signal.Notify(came, os.Interrupt, syscall.SIGTERM)
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case s := <-came:
				if n > 0 {
					signal.Reset(s)
					_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
				}
				cancel()
			case <-over:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(came)
		close(over)
		<-ended
		cancel()
	}
}

// logger returns the log that c describes, the same for lines that are many,
// and what closes both. With a directory, lines go to its files too.
func logger(c config.Log, stderr io.Writer) (log *slog.Logger, lines *linelog.Log, closeLog func(), err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, nil, nil, fmt.Errorf("log-level: %w", err)
	}
	out, closeLog := stderr, func() {}
	if c.Dir != "" {
		dir, err := logfile.Open(c.Dir, "sluice", time.Now)
		if err != nil {
			return nil, nil, nil, err
		}
		out, closeLog = both{stderr, dir}, func() { _ = dir.Close() }
	}
	lines = linelog.New(out, linelog.Config{JSON: c.JSON, Level: level})
	return slog.New(lines.Handler()), lines, closeLog, nil
}

// both writes all twice. That one of the two cannot be written to does not keep
// it from the other.
type both struct{ a, b io.Writer }

func (w both) Write(p []byte) (int, error) {
	n, errA := w.a.Write(p)
	m, errB := w.b.Write(p)
	return min(n, m), errors.Join(errA, errB)
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A work is what every proxy has to do.
type work struct {
	name, title string
	body        int  // bytes of the request's body, at least
	stream      bool // held streams without end; otherwise unary requests
	conns       int
	rate        int                                                // requests a second; 0 is a closed loop
	delay       int                                                // milliseconds between two events of a stream
	warm        float64                                            // seconds
	openings    int                                                // streams opened a second; 0 is all at once
	direct      bool                                               // measured without a proxy as well
	memory      bool                                               // on a fresh process; the number of connections is -streams
	guests      []guest                                            // measured with these modules, and without any, on one core
	alone       func(*place, options, work, int) ([]sample, error) // how it is measured, if in a way of its own
	args        []string                                           // further arguments of the load
	lines       []line
}

// shared reports whether w is measured on the proxies that are started for all
// works.
func (w work) shared() bool { return !w.memory && w.guests == nil && w.alone == nil }

// A line is a row of the table: one figure of a work.
type line struct {
	what   string
	figure string // its name in sample.Figures
	added  bool   // what the proxy adds to the figure of the direct run
	digits int    // behind the point
	bar    string // what the project has set itself, in words
}

var works = []work{
	{name: "unary", title: "2 KiB request, 1 KiB answer, 64 connections, saturated", body: 2 << 10, conns: 64, warm: 0.4, lines: []line{
		{what: "CPU µs/request", figure: "cpu_us", digits: 1, bar: "≤ 0.95 haproxy, ≤ 1.3 floor"},
		{what: "requests/s", figure: "per_second"},
	}},
	{name: "rate", title: "the same at 1,000 requests/s", body: 2 << 10, conns: 64, rate: 1000, warm: 0.3, direct: true, lines: []line{
		{what: "CPU µs/request", figure: "cpu_us", digits: 1},
		{what: "added p50 µs", figure: "p50", added: true},
		{what: "added p99 µs", figure: "p99", added: true, bar: "≤ 1.1 haproxy"},
	}},
	{name: "sse", title: "200 streams, an event every 10 ms", body: 2 << 10, stream: true, conns: 200, delay: 10, warm: 0.3, lines: streamLines("≤ 1.0 haproxy, 2 cores ≤ 1.05")},
	{name: "sparse", title: "64 streams, an event every 100 ms", body: 2 << 10, stream: true, conns: 64, delay: 100, warm: 0.4, lines: streamLines("")},
	{name: "many", title: "1,000 streams, an event every 100 ms", body: 2 << 10, stream: true, conns: 1000, delay: 100, warm: 0.5, openings: 4000, lines: streamLines("")},
	{name: "200k", title: "200 KB prompt, 16 connections, saturated", body: 200_000, conns: 16, warm: 0.3, lines: []line{
		{what: "CPU µs/request", figure: "cpu_us", bar: "≤ 0.8 haproxy"},
	}},
	{name: "2m", title: "2 MiB prompt, 4 connections, saturated", body: 2 << 20, conns: 4, warm: 0.3, lines: []line{
		{what: "CPU µs/request", figure: "cpu_us", bar: "≤ 0.9 haproxy"},
	}},
	{name: "memory", body: 2 << 10, stream: true, delay: 1000, warm: 1.5, openings: 4000, memory: true, lines: []line{
		{what: "KiB/stream", figure: "kib_per_stream", digits: 1, bar: "≤ 14"},
		{what: "MiB idle", figure: "idle_mib", digits: 1},
	}},
	{name: "wasm", title: "2 KiB request, 12 header fields, 64 connections, saturated", body: 2 << 10, conns: 64, warm: 0.4, guests: askers, args: guestFields, lines: cpuLine("CPU µs/request", 1)},
	{name: "wasm-200k", title: "200 KB prompt, 16 connections, saturated", body: 200_000, conns: 16, warm: 0.3, guests: askers, args: guestFields, lines: cpuLine("CPU µs/request", 0)},
	{name: "wasm-sse", title: "200 streams, an event every 10 ms", body: 2 << 10, stream: true, conns: 200, delay: 10, warm: 0.3, guests: watchers, args: guestFields, lines: cpuLine("CPU µs/event", 2)},
	{name: "hostile", title: "1,000 requests/s beside modules that misbehave", body: 2 << 10, conns: 64, rate: 1000, warm: 0.3, alone: hostileRound, args: guestFields, lines: hostileLines},
	{name: "register", title: "1,000 requests/s beside a module that is registered", body: 2 << 10, conns: 64, rate: 1000, warm: 0.3, alone: registerRound, args: guestFields, lines: registerLines},
}

func cpuLine(what string, digits int) []line {
	return []line{{what: what, figure: "cpu_us", digits: digits}}
}

func streamLines(bar string) []line {
	return []line{
		{what: "CPU µs/chunk", figure: "cpu_us", digits: 2, bar: bar},
		{what: "transit p50 µs", figure: "transit50"},
		{what: "transit p99 µs", figure: "transit99", bar: "≤ haproxy + 200"},
	}
}

func workNames() []string {
	var names []string
	for _, w := range works {
		names = append(names, w.name)
	}
	return names
}

// checkNames finds names that are not there before anything is measured.
func checkNames(o options) error {
	for _, n := range o.Only {
		if !slices.Contains(workNames(), n) {
			return fmt.Errorf("no work %q; want some of %s", n, strings.Join(workNames(), ","))
		}
	}
	for _, n := range o.Proxies {
		if _, path, ok := strings.Cut(n, "="); ok {
			if _, err := os.Stat(path); err != nil {
				return err
			}
			continue
		}
		if proxies[n] == nil {
			return fmt.Errorf("no proxy %q; want some of haproxy,nginx,floor,sluice, or name=PATH", n)
		}
		if n == "haproxy" || n == "nginx" {
			if err := need(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// bodyFile writes a chat request of at least size bytes, as OpenAI's SDKs send
// it: messages first, with escapes in the text, stream last.
func bodyFile(dir string, size int, stream bool) (string, error) {
	b, err := chatBody(size, stream)
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("body-%d-%t.json", size, stream))
	return name, os.WriteFile(name, b, 0o600)
}

func chatBody(size int, stream bool) ([]byte, error) {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	words := []string{"the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", `"quoted"`, "model", "stream", "\n", "token", "déjà", "vu", `C:\tmp`}
	draw := rand.New(rand.NewPCG(1, 1)) // the same words in every run
	request := struct {
		Messages    []message `json:"messages"`
		Model       string    `json:"model"`
		Temperature float64   `json:"temperature"`
		MaxTokens   int       `json:"max_tokens"`
		Stream      bool      `json:"stream"`
	}{[]message{{"system", "You are a helpful assistant."}}, "m-1", 0.2, 256, stream}
	have := 200
	for have < size {
		var text strings.Builder
		for text.Len() < min(size-have, 4000) {
			text.WriteString(words[draw.IntN(len(words))])
			text.WriteByte(' ')
		}
		role := []string{"assistant", "user"}[len(request.Messages)%2]
		request.Messages = append(request.Messages, message{role, text.String()})
		have += text.Len() + 40
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(request); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

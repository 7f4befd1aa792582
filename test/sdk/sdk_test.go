// Package sdk holds the gateway to what official SDKs read: the built program
// in front of simulated engines, asked with the SDKs that applications use.
package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sluice/test/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

// The models that every simulated engine serves. The second has a name that
// needs care in a path.
const (
	model  = "m"
	slashy = "org/other:v1"
)

// A fleet is a gateway before simulated engines of one make, and the SDKs'
// clients of it, which try once only: what is tried again is the gateway's.
type fleet struct {
	make      string // of the engines
	gateway   *program.Gateway
	engines   []string // their URLs
	openai    openai.Client
	anthropic anthropic.Client
}

// start starts a fleet of two engines that ends with t.
func start(t *testing.T, engine string, serveFlags ...string) *fleet {
	t.Helper()
	flags := append([]string{"--retry-initial-backoff-ms", "1", "--disable-access-log"}, serveFlags...)
	g, e := program.Fleet(t, 2, []string{"--engine", engine, "--model", model, "--model", slashy}, flags)
	return &fleet{make: engine, gateway: g, engines: e.URLs, openai: openAI(g.URL), anthropic: claude(g.URL)}
}

func openAI(url string, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{
		option.WithBaseURL(url + "/v1"), option.WithAPIKey("unused"), option.WithMaxRetries(0),
	}, opts...)...)
}

func claude(url string, opts ...anthropicoption.RequestOption) anthropic.Client {
	return anthropic.NewClient(append([]anthropicoption.RequestOption{
		anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("unused"), anthropicoption.WithMaxRetries(0),
	}, opts...)...)
}

// A check is one thing that a client wants of a fleet.
type check struct {
	name string
	run  func(*testing.T, *fleet)
}

// TestEngines asks for everything before engines of each make, which word
// their answers differently.
func TestEngines(t *testing.T) {
	for _, engine := range []string{"sglang", "vllm", "llamacpp"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			f := start(t, engine)
			for _, checks := range [][]check{chatChecks, textChecks, responsesChecks, modelChecks, messagesChecks, nativeChecks} {
				for _, c := range checks {
					t.Run(c.name, func(t *testing.T) { c.run(t, f) })
				}
			}
		})
	}
}

// TestFaults asks while workers do wrong.
func TestFaults(t *testing.T) {
	t.Parallel()
	// Here every request fails everywhere: a breaker would answer for the engines.
	f := start(t, "sglang", "--disable-circuit-breaker")
	for _, checks := range [][]check{faultChecks, goneChecks} {
		for _, c := range checks {
			t.Run(c.name, func(t *testing.T) {
				f.gateway.WaitReady(t, len(f.engines))
				c.run(t, f)
			})
		}
	}
}

// within bounds a request that should be answered at once.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// openAIError returns what err tells as the SDK's typed error.
func openAIError(t *testing.T, err error) *openai.Error {
	t.Helper()
	var e *openai.Error
	if !errors.As(err, &e) {
		t.Fatalf("got the error %v (%T), want an API error", err, err)
	}
	return e
}

// anthropicError returns what err tells as the SDK's typed error.
func anthropicError(t *testing.T, err error) *anthropic.Error {
	t.Helper()
	var e *anthropic.Error
	if !errors.As(err, &e) {
		t.Fatalf("got the error %v (%T), want an API error", err, err)
	}
	return e
}

// post sends body as it is and returns the whole answer.
func post(t *testing.T, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// counts is what became of requests, as simulated engines tell it.
type counts struct {
	Requests, Served, Faulted, Cancelled int64
}

// counts sums what the engines tell.
func (f *fleet) counts(t *testing.T) counts {
	t.Helper()
	var sum counts
	for _, u := range f.engines {
		var state struct{ Counts counts }
		getJSON(t, u+"/mock/state", &state)
		sum.Requests += state.Counts.Requests
		sum.Served += state.Counts.Served
		sum.Faulted += state.Counts.Faulted
		sum.Cancelled += state.Counts.Cancelled
	}
	return sum
}

// asked returns how often each engine saw a request id.
func (f *fleet) asked(t *testing.T, id string) []int {
	t.Helper()
	var ns []int
	for _, u := range f.engines {
		var times struct{ Asked int }
		getJSON(t, u+"/mock/state?id="+id, &times)
		ns = append(ns, times.Asked)
	}
	return ns
}

func getJSON(t *testing.T, url string, v any) {
	t.Helper()
	status, body := program.Get(t, url)
	if status != http.StatusOK {
		t.Fatalf("GET %s: %d %s", url, status, body)
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("GET %s: %v in %s", url, err, body)
	}
}

package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
	"sluice/internal/kit/secret"
)

// What engines answer, as far as it is read.
var transcripts = map[string]map[string]string{
	"sglang": {
		"/v1/models":   `{"object":"list","data":[{"id":"m1","object":"model","created":1,"owned_by":"sglang","root":"m1","max_model_len":4096}]}`,
		"/server_info": `{"served_model_name":"m1","version":"0.5.9","tp_size":1,"dp_size":1,"model_path":"m1","max_running_requests":64,"max_total_num_tokens":100000,"api_key":"hunter2","internal_states":[{"max_total_num_tokens":100000}]}`,
		"/model_info":  `{"model_path":"m1","tokenizer_path":"m1","is_generation":true}`,
	},
	"sglang before 0.5": {
		"/v1/models":       `{"object":"list","data":[{"id":"m1","owned_by":"sglang"}]}`,
		"/get_server_info": `{"served_model_name":"served","version":"0.4.9","context_length":8192}`,
		"/get_model_info":  `{"model_path":"/models/m1","tokenizer_path":"/models/m1","is_generation":false}`,
	},
	"vllm": {
		"/v1/models": `{"object":"list","data":[{"id":"a","owned_by":"vllm","root":"/m","max_model_len":32768},{"id":"lora","owned_by":"vllm","root":"/l","parent":"a","max_model_len":32768}]}`,
		"/version":   `{"version":"0.32.0"}`,
	},
	"llama.cpp": {
		"/v1/models": `{"models":[{"name":"tiny.gguf"}],"object":"list","data":[{"id":"tiny.gguf","aliases":["tiny"],"object":"model","owned_by":"llamacpp","meta":{"n_ctx_train":512}}]}`,
		"/props":     `{"default_generation_settings":{"n_ctx":2048,"params":{}},"total_slots":4,"model_path":"/m/tiny.gguf","build_info":"b9000-abc"}`,
	},
	"only info, no list": {
		"/get_model_info": `{"model_path":"/models/m1"}`,
	},
	"nothing": {},
}

// join returns what the Registry makes of an engine's answers.
func join(t *testing.T, answers map[string]string, spec Spec) (info *Info, w *Worker) {
	t.Helper()
	r := newRig(t)
	e := &engine{mode: "up", answers: answers}
	r.es.m.Store("a", e)
	r.start()
	w = r.add("a", spec)
	after(time.Minute)
	return w.Info(), w
}

func TestDiscovery(t *testing.T) {
	type want struct {
		ids, types, runtime, version string
		wildcard                     bool
		context, running, kv         int
	}
	chat, embed := "chat completions responses tools", "embeddings"
	for name, w := range map[string]want{
		"sglang":             {"m1", chat, "sglang", "0.5.9", false, 4096, 64, 100000},
		"sglang before 0.5":  {"m1 served", embed, "sglang", "0.4.9", false, 8192, 0, 0},
		"vllm":               {"a lora", chat, "vllm", "0.32.0", false, 32768, 0, 0},
		"llama.cpp":          {"tiny tiny.gguf", chat, "unspecified", "b9000-abc", false, 2048, 4, 0},
		"only info, no list": {"/models/m1", chat, "sglang", "", false, 0, 0, 0},
		"nothing":            {"", "", "unspecified", "", true, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				i, worker := join(t, transcripts[name], Spec{})
				got := want{strings.Join(i.ModelIDs, " "), "", i.Runtime, i.Version, i.Wildcard, i.ContextLength, i.MaxRunning, i.KVTokens}
				if len(i.Models) > 0 {
					got.types = strings.Join(i.Models[0].ModelType, " ")
				}
				if got != w {
					t.Errorf("got  %+v\nwant %+v", got, w)
				}
				if !worker.Joined() || worker.Status() != Ready {
					t.Errorf("joined %v, status %v; want true, ready", worker.Joined(), worker.Status())
				}
			})
		})
	}
}

// The answer to GET /workers is made of these.
func TestLabelsAreTheContracts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		i, _ := join(t, transcripts["sglang"], Spec{Labels: map[string]string{"mine": "x", "version": "mine too"}})
		want := map[string]string{
			"served_model_name": "m1", "version": "mine too", "dp_size": "1", "model_path": "m1", "tp_size": "1", "is_generation": "true",
			"max_running_requests": "64", "max_model_len": "4096", "tokenizer_path": "m1", "mine": "x",
		}
		if !reflect.DeepEqual(i.Labels, want) {
			t.Errorf("labels %v\nwant   %v", i.Labels, want)
		}
		b, err := json.Marshal(i.Models)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(b), `[{"id":"m1","model_type":["chat","completions","responses","tools"],"context_length":4096,"tokenizer_path":"m1"}]`; got != want {
			t.Errorf("models %s\nwant   %s", got, want)
		}
	})
}

func TestWhatTheSpecSaysGoesFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		i, _ := join(t, transcripts["vllm"], Spec{Models: []ModelCard{{ID: "x", ContextLength: 5}}, RuntimeType: "sglang"})
		if strings.Join(i.ModelIDs, " ") != "x" || i.Models[0].ContextLength != 5 || i.Runtime != "sglang" || i.Version != "0.32.0" {
			t.Errorf("spec with models: %+v", i)
		}
	})
	bubble.Test(t, func(t *testing.T) {
		if i, _ := join(t, transcripts["vllm"], Spec{Labels: map[string]string{"model_id": "y"}}); strings.Join(i.ModelIDs, " ") != "y" {
			t.Errorf("label model_id: %+v", i)
		}
	})
	bubble.Test(t, func(t *testing.T) {
		// A spec that names its models needs no answer at all.
		i, w := join(t, map[string]string{"/v1/models": "hang", "/version": "hang", "/props": "hang"}, Spec{Models: []ModelCard{{ID: "x"}}})
		if strings.Join(i.ModelIDs, " ") != "x" || w.Status() != Ready {
			t.Errorf("silent worker: %+v, %v", i, w.Status())
		}
	})
}

// A worker that answers nonsense is kept out, or what it says is left out; it
// never gets nonsense into a table, a header or a log.
func TestHostileAnswers(t *testing.T) {
	many := `{"data":[` + strings.Repeat(`{"id":"a"},`, 300) + `{"id":"b"}]}`
	long := strings.Repeat("x", 2000)
	tests := []struct {
		name    string
		answers map[string]string
		status  Status
		ids     string
	}{
		{"not JSON", map[string]string{"/v1/models": `<html>`}, Pending, ""},
		{"another type", map[string]string{"/v1/models": `{"data":"x"}`}, Pending, ""},
		{"over 1 MiB", map[string]string{"/v1/models": `{"data":[{"id":"a"}],"x":"` + strings.Repeat("x", maxAnswer) + `"}`}, Pending, ""},
		{"too many models", map[string]string{"/v1/models": many}, Pending, ""},
		{"a name with a line break", map[string]string{"/v1/models": `{"data":[{"id":"a\nb"}]}`}, Pending, ""},
		{"a name that is too long", map[string]string{"/v1/models": `{"data":[{"id":"` + long + `"}]}`}, Pending, ""},
		{"an empty name", map[string]string{"/v1/models": `{"data":[{"id":""}]}`}, Pending, ""},
		{"error 500", map[string]string{"/v1/models": "500"}, Pending, ""},
		{"no answer", map[string]string{"/v1/models": "hang"}, Pending, ""},
		{"deep", map[string]string{"/v1/models": strings.Repeat("[", 100000)}, Pending, ""},
		{"the same name twice", map[string]string{"/v1/models": `{"data":[{"id":"a"},{"id":"a"}]}`}, Ready, "a"},
		{"an empty list", map[string]string{"/v1/models": `{"data":[]}`}, Ready, ""},
		{"numbers that are none", map[string]string{"/v1/models": `{"data":[{"id":"a","owned_by":"sglang","max_model_len":-1e300}]}`, "/server_info": `{"version":[1],"max_running_requests":1e300,"max_total_num_tokens":"x","served_model_name":{"a":1},"internal_states":[[]]}`}, Ready, "a"},
		{"labels that are too long or not clean", map[string]string{"/v1/models": `{"data":[{"id":"a","owned_by":"sglang"}]}`, "/server_info": `{"version":"` + long + `","served_model_name":"x\ny","tp_size":` + strings.Repeat("1", 2000) + `}`, "/model_info": `[]`}, Ready, "a"},
		{"what is beside the list hangs", map[string]string{"/v1/models": `{"data":[{"id":"a"}]}`, "/version": "hang", "/props": "hang"}, Ready, "a"},
		{"there is no list and all else hangs", map[string]string{"/version": "hang"}, Pending, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				i, w := join(t, tt.answers, Spec{})
				if got := strings.Join(i.ModelIDs, " "); w.Status() != tt.status || got != tt.ids {
					t.Errorf("status %v, models %q; want %v, %q", w.Status(), got, tt.status, tt.ids)
				}
				if tt.status == Pending && w.Joined() {
					t.Error("joined")
				}
				if tt.status == Pending {
					if job, ok := w.reg.Job(w.ID()); !ok || job.Msg == "" && job.State == "failed" || len(job.Msg) > 1024 {
						t.Errorf("Job() = %+v, %v; want why", job, ok)
					}
				}
				for k, v := range i.Labels {
					if len(v) > maxValue || strings.ContainsAny(v, "\r\n") {
						t.Errorf("label %s is %q", k, v)
					}
				}
			})
		})
	}
}

func TestAStubbornWorkerFailsInTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.StartupTimeout = time.Minute
		r.es.at("a").answer("/v1/models", "<html>")
		r.start()
		w := r.add("a", Spec{})
		after(2 * time.Minute)
		r.want("after the startup timeout", w, Failed)
		r.es.at("a").serve("m")
		after(15 * time.Second)
		r.want("when it tells", w, Ready)
	})
}

// FuzzDiscovery holds that no answer can make a name that is not clean.
func FuzzDiscovery(f *testing.F) {
	for _, a := range transcripts {
		f.Add([]byte(a["/v1/models"]), []byte(a["/server_info"]), []byte(a["/model_info"]), []byte(a["/props"]))
	}
	f.Fuzz(func(t *testing.T, models, server, model, props []byte) {
		fo := &found{labels: make(map[string]string)}
		if fo.readModels(models) != nil {
			return
		}
		fo.readServer(readAnswer(server))
		fo.readModel(readAnswer(model))
		fo.readProps(readAnswer(props))
		fo.finish()
		i := newInfo(Spec{}, "", fo)
		if len(i.Models) > maxModels || i.Wildcard != (len(i.Models) == 0) {
			t.Errorf("%d models, wildcard %v", len(i.Models), i.Wildcard)
		}
		for _, id := range i.ModelIDs {
			if !goodName(id) {
				t.Errorf("a model is called %q", id)
			}
		}
		for k, v := range i.Labels {
			if len(v) > maxValue || printable(v) != v && k != "max_model_len" {
				t.Errorf("label %s is %q", k, v)
			}
		}
		if i.MaxRunning < 0 || i.ContextLength < 0 || i.KVTokens < 0 {
			t.Errorf("negative: %+v", i)
		}
	})
}

// Over real sockets: the key goes to the worker and nowhere else, and a worker
// that is gone is noticed within a second.
func TestOverTheWire(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var keyless atomic.Int32
	var redirect atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/pre/health", func(w http.ResponseWriter, r *http.Request) {
		if redirect.Load() {
			http.Redirect(w, r, other.URL, http.StatusFound)
		}
	})
	mux.HandleFunc("/pre/v1/models", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":[{"id":"m"}]}`) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k" {
			keyless.Add(1)
		}
		mux.ServeHTTP(w, r)
	}))
	defer srv.Close()

	r := New(DefaultConfig(), DefaultHealthConfig(), breaker.DefaultConfig(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	id, err := r.Add(Spec{URL: srv.URL + "/pre/", APIKey: secret.New("k")})
	if err != nil {
		t.Fatal(err)
	}
	w, _ := r.Get(id)
	until := func(what string, st Status) {
		t.Helper()
		watch := bubble.Begin(t)
		for end := time.Now().Add(30 * time.Second); w.Status() != st; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: status %v, want %v", what, w.Status(), st)
			}
		}
		if took, awake := watch.End(); awake > 5*time.Second {
			t.Errorf("%s: status %v after %v, %v of it awake", what, st, took, awake)
		}
	}
	until("at the start", Ready)
	redirect.Store(true)
	w.Suspect()
	until("when it sends us elsewhere", NotReady)
	redirect.Store(false)
	until("when it does not any more", Ready)
	srv.Listener.Close()
	srv.CloseClientConnections()
	w.Suspect()
	until("when it is gone", NotReady)
	if elsewhere.Load() > 0 || keyless.Load() > 0 {
		t.Errorf("%d questions went elsewhere, %d without the key; want none", elsewhere.Load(), keyless.Load())
	}
}

// An engine can load another model while it runs: it is found out at the next
// routine check, and nothing that an engine answers then takes away what it had.
func TestModelsAreFoundOutAnewWhileReady(t *testing.T) {
	list := func(ids ...string) string {
		e := new(engine)
		e.serve(ids...)
		return e.answers["/v1/models"]
	}
	sglang := transcripts["sglang"]["/v1/models"]
	for _, tt := range []struct {
		name  string
		first map[string]string
		then  string // the second answer to /v1/models
		spec  Spec
		want  string
		epoch uint64 // new snapshots
	}{
		{"one more", transcripts["vllm"], list("a", "lora", "new"), Spec{}, "a lora new", 1},
		{"one less", transcripts["vllm"], list("a"), Spec{}, "a", 1},
		{"the same", transcripts["vllm"], transcripts["vllm"]["/v1/models"], Spec{}, "a lora", 0},
		{"the same, of two endpoints", transcripts["sglang"], sglang, Spec{}, "m1", 0},
		{"an alias of the whole stays", transcripts["sglang before 0.5"], list("m2"), Spec{}, "m2 served", 1},
		{"a wildcard that names one now", transcripts["nothing"], list("a"), Spec{}, "a", 1},
		{"none", transcripts["vllm"], list(), Spec{}, "a lora", 0},
		{"nonsense", transcripts["vllm"], "<html>", Spec{}, "a lora", 0},
		{"an error", transcripts["vllm"], "500", Spec{}, "a lora", 0},
		{"silence", transcripts["vllm"], "hang", Spec{}, "a lora", 0},
		{"the spec names its models", transcripts["vllm"], list("new"), Spec{Models: []ModelCard{{ID: "x"}}}, "x", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				e := &engine{mode: "up", answers: maps.Clone(tt.first)}
				r.es.m.Store("a", e)
				r.start()
				w := r.add("a", tt.spec)
				after(10 * time.Second)
				before := r.Snapshot().Epoch
				e.answer("/v1/models", tt.then)
				after(r.hc.Interval * 5 / 2)
				if got := strings.Join(w.Info().ModelIDs, " "); got != tt.want {
					t.Errorf("models %q, want %q", got, tt.want)
				}
				if got := r.Snapshot().Epoch - before; got != tt.epoch {
					t.Errorf("%d new snapshots, want %d", got, tt.epoch)
				}
				r.want("all the time", w, Ready)
				if s, busy := r.Job(w.ID()); busy {
					t.Errorf("job %+v; want none: nobody asked for one", s)
				}
			})
		})
	}
}

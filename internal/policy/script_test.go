package policy

// Scripts in testdata/*.txt are conversations with a policy. A line says what
// happens; what stands behind -> is who is chosen, and why. Rewrite the answers
// with
//
//	go test ./internal/policy -run TestScripts -update
//
// and read what changed. Lines:
//
//	policy manual assignment-mode=min_load max-idle-secs=10s
//	    Begins, with settings by the names of their flags. Said once more, it
//	    begins anew among the same workers. Chance is the same in every run.
//	workers a b c kv=100000 priority=high
//	    They come, in this order, at http://a:8000 …; kv is the tokens that their
//	    caches hold, context those of a prompt at most; anything else is a label.
//	workers a ranks=2
//	    It is an engine with two data-parallel ranks: a@0 and a@1 come.
//	leave a
//	    It is removed. If it comes again it is another worker.
//	away a, back a
//	    It is not ready, or again.
//	spare a
//	    It is ready and overloaded, so it is not offered, until back a.
//	restart a
//	    It has lost its cache.
//	busy a 4 tokens=1000
//	    It has four more requests, each with so many tokens to compute, that the
//	    policy has not chosen it for. idle a: they end.
//	report a running=3 waiting=2 usage=0.5 used=500 max=1000 rate=800 hit=0.3 age=3s
//	    It says so of itself, age ago. NaN, Inf and negative numbers may stand there.
//	+10s
//	    Time goes by.
//	send "You are a pilot. "*60 "Q1" x-smg-routing-key=alice -> a ring
//	    A request with that text (strings are joined, *60 repeats) and header
//	    fields, which is served at once. Without a string it has no text. Values
//	    may be quoted: cookie="a b".
//	send "Q1" as r1 -> a
//	    It stays, until: began r1 (its answer has begun), end r1, or fail r1 (the
//	    worker broke down), or retry r1 b (it did, and the router sends the
//	    request to b).
//	6 times send "Q1" -> a b c a b c
//	    As often; more than 16 are counted: -> a 31, b 33.
//
// An answer is "nobody", or a worker and, if it matters, the Choice's Why and
// terms, each after a comma; what is not written is not compared:
//
//	-> a hit, of 3, hit 4/7, prompt 900, uncached 388, queue 20, duplicate 1.5, decode 2, price 410
//
// "a|b" allows several workers, "*" any.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/kit/breaker"
	"sluice/internal/kit/bubble"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var out []byte
			bubble.Test(t, func(t *testing.T) { out = newStage(t).play(path, string(b)) })
			if *update && !bytes.Equal(b, out) {
				if err := os.WriteFile(path, out, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A stage is where a script is played.
type stage struct {
	t     *testing.T
	reg   *fleet.Registry
	types *troupe

	settings *Settings
	policy   Policy
	picker   Picker

	cast  []*fleet.Worker // who is there, in the order they came
	names map[*fleet.Worker]string
	away  map[*fleet.Worker]bool
	spare map[*fleet.Worker]bool
	busy  map[*fleet.Worker][]*fleet.Lease
	open  map[string]*call // requests that stay
}

// A call is a request that is with a worker.
type call struct {
	r       *infer.Request
	w       *fleet.Worker
	c       Choice
	lease   fleet.Lease
	learner Learner
}

func newStage(t *testing.T) *stage {
	s := &stage{
		t: t, types: new(troupe), names: make(map[*fleet.Worker]string), away: make(map[*fleet.Worker]bool), spare: make(map[*fleet.Worker]bool),
		busy: make(map[*fleet.Worker][]*fleet.Lease), open: make(map[string]*call),
	}
	health := fleet.DefaultHealthConfig()
	health.Disabled = true
	cfg := fleet.DefaultConfig()
	cfg.DrainSettle, cfg.DPAware = 0, true
	s.reg = fleet.New(cfg, health, breaker.DefaultConfig(), fleet.Options{Transport: s.types})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.reg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return s
}

// play plays a script and returns it with the answers that were given.
func (s *stage) play(path, script string) []byte {
	var out bytes.Buffer
	for n, line := range strings.SplitAfter(script, "\n") {
		text, end := strings.CutSuffix(line, "\n")
		got, err := s.line(text)
		if err != nil {
			s.t.Errorf("%s:%d: %s: %v", path, n+1, text, err)
		}
		out.WriteString(cmp.Or(got, text))
		if end {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// line plays one line and returns what it should read.
func (s *stage) line(line string) (string, error) {
	said, want, answered := strings.Cut(line, "->")
	words, err := wordsOf(said)
	if err != nil || len(words) == 0 || strings.HasPrefix(words[0].text, "#") {
		return line, err
	}
	times := 1
	if len(words) > 2 && words[1].text == "times" {
		if times, err = strconv.Atoi(words[0].text); err != nil || times < 1 {
			return line, fmt.Errorf("how often is %q?", words[0].text)
		}
		words = words[2:]
	}
	if words[0].text != "send" {
		if answered {
			return line, errors.New("only send has an answer")
		}
		return line, s.act(words)
	}
	got := make([]answer, times)
	for i := range got {
		if got[i], err = s.send(words[1:]); err != nil {
			return line, err
		}
	}
	short, err := compare(got, strings.TrimSpace(want))
	if err == nil || !*update {
		return line, err
	}
	return strings.TrimRight(said, " ") + " -> " + short, nil
}

// act does what a line says that asks nothing.
func (s *stage) act(words []word) error {
	verb, rest := words[0].text, words[1:]
	if d, err := time.ParseDuration(verb); err == nil && d > 0 {
		time.Sleep(d)
		synctest.Wait()
		return nil
	}
	if verb != "policy" && verb != "workers" && len(rest) == 0 {
		return errors.New("whom?")
	}
	switch verb {
	case "policy":
		return s.begin(rest)
	case "workers":
		return s.come(rest)
	case "began", "end", "fail", "retry":
		return s.move(verb, rest)
	case "leave", "away", "spare", "back", "restart", "idle", "busy", "report":
	default:
		return fmt.Errorf("what is %q?", verb)
	}
	switch verb {
	case "busy", "report":
		w, err := s.who(rest[0].text)
		if err != nil {
			return err
		}
		if verb == "report" {
			return s.report(w, rest[1:])
		}
		return s.burden(w, rest[1:])
	}
	for _, name := range rest {
		w, err := s.who(name.text)
		if err != nil {
			return err
		}
		switch verb {
		case "leave":
			s.cast = slices.DeleteFunc(slices.Clone(s.cast), func(o *fleet.Worker) bool { return o.Root() == w.Root() })
			delete(s.away, w)
			delete(s.spare, w)
			if err := s.reg.Remove(w.ID()); err != nil {
				return err
			}
		case "away":
			s.away[w] = true
		case "spare":
			s.spare[w] = true
		case "back":
			delete(s.away, w)
			delete(s.spare, w)
		case "restart":
			w.Forgot()
		case "idle":
			for _, l := range s.busy[w] {
				l.Release(time.Now(), breaker.Neutral)
			}
			delete(s.busy, w)
		}
	}
	return s.bind()
}

// begin makes the policy.
func (s *stage) begin(rest []word) error {
	if len(rest) == 0 {
		return errors.New("which?")
	}
	s.settings = DefaultSettings()
	chance := rand.New(rand.NewPCG(1, 2))
	s.settings.Rand = chance.Uint32
	for _, w := range rest[1:] {
		if err := set(reflect.ValueOf(s.settings).Elem(), w.key, w.text); err != nil {
			return err
		}
	}
	p, err := New(rest[0].text, s.settings)
	if err != nil {
		return err
	}
	s.policy = p
	return s.bind()
}

// bind tells the policy who is there.
func (s *stage) bind() error {
	synctest.Wait()
	s.picker = nil
	if s.policy == nil {
		return nil
	}
	var ws []*fleet.Worker
	m := Members{All: slices.Clone(s.cast)}
	slices.Reverse(m.All) // which is no order to go by: ranks come in any
	for _, w := range s.cast {
		switch {
		case s.away[w]:
			continue
		case s.spare[w]:
			m.Spared = append(m.Spared, w)
		default:
			ws = append(ws, w)
		}
		m.Ready = append(m.Ready, w)
	}
	if len(ws) > 0 {
		s.picker = Bind(s.policy, ws, m)
	}
	return nil
}

// come lets workers come.
func (s *stage) come(rest []word) error {
	e, labels := new(engine), make(map[string]string)
	var names []string
	for _, w := range rest {
		n, err := strconv.Atoi(w.text)
		switch {
		case w.key == "":
			names = append(names, w.text)
		case w.key == "kv" && err == nil:
			e.kv = n
		case w.key == "context" && err == nil:
			e.context = n
		case w.key == "ranks" && err == nil:
			e.ranks = n
		default:
			labels[w.key] = w.text
		}
	}
	for _, name := range names {
		s.types.m.Store(name+":8000", e)
		id, err := s.reg.Add(fleet.Spec{URL: "http://" + name + ":8000", Labels: labels})
		if err != nil {
			return err
		}
		if e.ranks > 1 {
			if err := s.comeByRank(name, e.ranks); err != nil {
				return err
			}
			continue
		}
		w, _ := s.reg.Get(id)
		s.cast = append(slices.Clip(s.cast), w)
		s.names[w] = name
	}
	return s.bind()
}

// comeByRank waits until an engine's ranks have come, and names them.
func (s *stage) comeByRank(name string, ranks int) error {
	time.Sleep(10 * time.Millisecond) // by when the fleet has told of them
	synctest.Wait()
	here := make([]*fleet.Worker, ranks)
	for _, w := range s.reg.Snapshot().Ready {
		if n, ok := w.Rank(); ok && w.Root() == "http://"+name+":8000" && n < ranks {
			here[n] = w
			s.names[w] = name + "@" + strconv.Itoa(n)
		}
	}
	if slices.Contains(here, nil) {
		return errors.New("not all ranks came")
	}
	s.cast = append(slices.Clip(s.cast), here...)
	return nil
}

// who finds a worker that is there.
func (s *stage) who(name string) (*fleet.Worker, error) {
	for _, w := range s.cast {
		if s.names[w] == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("who is %q?", name)
}

// burden gives w requests that the policy has nothing to do with.
func (s *stage) burden(w *fleet.Worker, rest []word) error {
	n, tokens := 1, 0
	for _, a := range rest {
		to := &n
		if a.key == "tokens" {
			to = &tokens
		}
		var err error
		if *to, err = strconv.Atoi(a.text); err != nil {
			return err
		}
	}
	for range n {
		l, ok := w.Acquire(time.Now())
		if !ok {
			return errors.New("its breaker is open")
		}
		l.Charge(int64(tokens), int64(tokens))
		s.busy[w] = append(s.busy[w], &l)
	}
	return nil
}

// report lets w say how it is.
func (s *stage) report(w *fleet.Worker, rest []word) error {
	l := &fleet.Load{At: time.Now()}
	for _, a := range rest {
		if a.key == "age" {
			d, err := time.ParseDuration(a.text)
			if err != nil {
				return err
			}
			l.At = l.At.Add(-d)
			continue
		}
		f, err := strconv.ParseFloat(a.text, 64)
		if err != nil {
			return err
		}
		switch a.key {
		case "running":
			l.Running = int(f)
		case "waiting":
			l.Waiting = int(f)
		case "usage":
			l.TokenUsage = f
		case "used":
			l.UsedTokens = int64(f)
		case "max":
			l.MaxTokens = int64(f)
		case "rate":
			l.Throughput = f
		case "hit":
			l.HitRate = f
		default:
			return fmt.Errorf("what is %q?", a.key)
		}
	}
	w.Report(l)
	return s.bind()
}

// send asks the policy for a worker, and sends the request there as the Router
// does.
func (s *stage) send(rest []word) (answer, error) {
	k := &call{r: &infer.Request{Endpoint: infer.Chat, Model: "m", Received: time.Now()}}
	name := ""
	for i := 0; i < len(rest); i++ {
		switch a := rest[i]; {
		case a.key != "":
			k.r.Header.AddString(a.key, a.text)
		case a.quoted:
			k.r.Body = append(k.r.Body, a.text...)
			k.r.Extract = func(dst, body []byte) []byte { return append(dst, body...) }
		case a.text == "as" && i+1 < len(rest):
			i++
			name = rest[i].text
		default:
			return answer{}, fmt.Errorf("what is %q?", a.text)
		}
	}
	k.r.Size = int64(len(k.r.Body))
	if s.policy == nil {
		return answer{}, errors.New("there is no policy yet")
	}
	if s.picker != nil {
		k.w = s.picker.Pick(k.r, &k.c)
	}
	got := answer{who: "nobody", terms: termsOf(&k.c)}
	if k.w == nil {
		k.r.DropText()
		return got, nil
	}
	got.who = s.names[k.w]
	if err := s.depart(k); err != nil {
		return got, err
	}
	if name != "" {
		s.open[name] = k
		return got, nil
	}
	k.began()
	k.end(nil)
	return got, nil
}

func (s *stage) depart(k *call) error {
	var ok bool
	if k.lease, ok = k.w.Acquire(time.Now()); !ok {
		return errors.New("its breaker is open")
	}
	if k.learner, _ = s.picker.(Learner); k.learner != nil {
		k.learner.Sent(k.r, k.w, &k.c)
	}
	k.lease.Charge(k.c.Uncached, k.c.Prompt)
	k.r.DropText()
	return nil
}

func (k *call) began() {
	k.lease.Began()
	if k.learner != nil {
		k.learner.Began(k.w, &k.c, time.Now())
	}
}

func (k *call) end(err error) {
	k.lease.Release(time.Now(), breaker.Neutral)
	if k.learner != nil {
		k.learner.Ended(k.w, &k.c, new(infer.Served), err, time.Now())
	}
}

// move moves a request that stays.
func (s *stage) move(verb string, rest []word) error {
	k := s.open[rest[0].text]
	if k == nil {
		return fmt.Errorf("which request is %q?", rest[0].text)
	}
	broke := &infer.Error{Status: http.StatusBadGateway, Code: "worker_unreachable", Retry: true}
	switch verb {
	case "began":
		k.began()
		return nil
	case "end":
		k.end(nil)
	case "fail", "retry":
		k.end(broke)
	}
	delete(s.open, rest[0].text)
	if verb != "retry" {
		return nil
	}
	if len(rest) < 2 {
		return errors.New("at whom?")
	}
	w, err := s.who(rest[1].text)
	if err != nil {
		return err
	}
	k.c.Took()
	k.w = w
	s.open[rest[0].text] = k
	return s.depart(k)
}

// An answer is what was chosen, and why.
type answer struct {
	who   string
	terms []string
}

// termsOf says what there is in c.
func termsOf(c *Choice) []string {
	out := []string{c.Why}
	term := func(name string, v float64) {
		if v != 0 {
			out = append(out, name+" "+strconv.FormatFloat(v, 'g', 6, 64))
		}
	}
	term("of", float64(c.Considered))
	if c.Blocks > 0 {
		out = append(out, fmt.Sprintf("hit %d/%d", c.Hit, c.Blocks))
	}
	term("prompt", float64(c.Prompt))
	term("uncached", float64(c.Uncached))
	term("queue", float64(c.Queue))
	term("duplicate", c.Duplicate)
	term("decode", c.Decode)
	term("price", c.Price)
	return out
}

// compare holds that got is what was wanted. It returns what should have stood
// there.
func compare(got []answer, want string) (short string, err error) {
	who, rest, _ := strings.Cut(want, " ")
	if len(got) > 1 {
		short = several(got)
		if short != want && want != "*" {
			err = fmt.Errorf("got %s", short)
		}
		return short, err
	}
	a := got[0]
	var wanted, keep []string
	for w := range strings.SplitSeq(rest, ",") {
		if w = strings.TrimSpace(w); w != "" {
			wanted = append(wanted, w)
		}
	}
	ok := who == "*" || slices.Contains(strings.Split(who, "|"), a.who)
	for i, w := range wanted {
		if slices.Contains(a.terms, w) {
			keep = append(keep, w)
			continue
		}
		ok = false
		kind, _, isTerm := strings.Cut(w, " ")
		if !isTerm && i == 0 {
			keep = append(keep, a.terms[0])
		}
		for _, t := range a.terms[1:] {
			if isTerm && strings.HasPrefix(t, kind+" ") {
				keep = append(keep, t)
			}
		}
	}
	if want == "" {
		keep = a.terms[:1]
	}
	short = strings.TrimSpace(a.who + " " + strings.Join(keep, ", "))
	if !ok {
		err = fmt.Errorf("got %s %s", a.who, strings.Join(a.terms, ", "))
	}
	return short, err
}

// several lists who was chosen, or counts if they are many.
func several(got []answer) string {
	var list []string
	count := make(map[string]int)
	for _, a := range got {
		list = append(list, a.who)
		count[a.who]++
	}
	if len(list) <= 16 {
		return strings.Join(list, " ")
	}
	names := slices.Compact(slices.Sorted(slices.Values(list)))
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %d", n, count[n])
	}
	return strings.Join(names, ", ")
}

// A word is name, "text" or key=value.
type word struct {
	key, text string
	quoted    bool
}

func wordsOf(line string) ([]word, error) {
	var ws []word
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" || len(ws) == 0 && line[0] == '#' {
			return ws, nil
		}
		var w word
		if at := strings.IndexAny(line, "= \""); at > 0 && line[at] == '=' {
			w.key, line = line[:at], line[at+1:]
		}
		if line != "" && line[0] == '"' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("a string does not end: %s", line)
			}
			w.text, _ = strconv.Unquote(q)
			w.quoted, line = true, line[len(q):]
		}
		plain, more, _ := strings.Cut(line, " ")
		line = more
		switch n, err := strconv.Atoi(strings.TrimPrefix(plain, "*")); {
		case !w.quoted:
			w.text = plain
		case plain == "":
		case plain[0] == '*' && err == nil && n >= 0:
			w.text = strings.Repeat(w.text, n)
		default:
			return nil, fmt.Errorf("what is %q behind a string?", plain)
		}
		ws = append(ws, w)
	}
}

// set gives the setting whose flag is called name a value.
func set(v reflect.Value, name, value string) error {
	found, err := setIn(v, name, value)
	if err == nil && !found {
		err = fmt.Errorf("there is no setting %q", name)
	}
	return err
}

func setIn(v reflect.Value, name, value string) (found bool, err error) {
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag
		if f.Kind() == reflect.Struct && tag.Get("flag") == "" {
			if found, err = setIn(f, name, value); found || err != nil {
				return found, err
			}
			continue
		}
		if !slices.Contains(strings.Split(tag.Get("flag"), ","), name) {
			continue
		}
		switch x := f.Addr().Interface().(type) {
		case *time.Duration:
			*x, err = time.ParseDuration(value)
		case *[]string:
			*x = strings.Split(value, ",")
		case *string:
			*x = value
		case *float64:
			*x, err = strconv.ParseFloat(value, 64)
		case *bool:
			*x, err = strconv.ParseBool(value)
		default:
			var n int64
			n, err = strconv.ParseInt(value, 10, 64)
			f.SetInt(n)
		}
		return true, err
	}
	return false, nil
}

// A troupe answers for workers what they are asked when they come.
type troupe struct{ m sync.Map } // *engine by host

type engine struct{ kv, context, ranks int }

func (p *troupe) RoundTrip(req *http.Request) (*http.Response, error) {
	v, _ := p.m.Load(req.URL.Host)
	e, _ := v.(*engine)
	if e == nil {
		return nil, errors.New("nobody there")
	}
	body := ""
	switch req.URL.Path {
	case "/v1/models":
		body = fmt.Sprintf(`{"data":[{"id":"m","owned_by":"sglang","max_model_len":%d}]}`, e.context)
	case "/server_info":
		body = fmt.Sprintf(`{"version":"0.5.23","max_total_num_tokens":%d,"dp_size":%d}`, e.kv, e.ranks)
	}
	status := http.StatusOK
	if body == "" {
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

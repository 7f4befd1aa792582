package mock

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Fault is what goes wrong with one answer. The zero Fault is none.
//
// Its text is a list of parts separated by semicolons:
//
//	status=503        answers an error with this status
//	retry-after=2     adds Retry-After, in seconds, to that error
//	delay=200ms       waits before anything is sent
//	ttft=1s           waits between the header and the first event
//	slow=10ms         waits before each byte of the body
//	contenttype=T     sends another Content-Type
//
// and at most one ending:
//
//	refuse            resets the connection before the request body is read
//	reset=before      resets it after that, before the header
//	reset=headers     resets it right after the header
//	reset=N           resets it after N events
//	earlyclose        closes it in peace before the header
//	never             answers nothing until the client leaves
//	cut=N             closes it in peace after N events, in the middle of the body
//	stall=N           sends nothing more after N events until the client leaves
//	garbage=N         breaks the chunked framing after N events
//	badjson=N         sends a data line that is not JSON after N events, and goes on
//	short             announces a longer body than it sends, and closes
//
// Of a body that is not streamed, half is sent before the ending, whatever N.
type Fault struct {
	Status      int
	RetryAfter  time.Duration
	Delay       time.Duration
	FirstToken  time.Duration
	Slow        time.Duration
	ContentType string

	ending ending
	after  int // events before the ending
}

type ending uint8

const (
	endWell ending = iota
	endRefuse
	endResetBefore
	endResetHeaders
	endReset
	endClose
	endNever
	endCut
	endStall
	endGarbage
	endBadJSON
	endShort
)

// maxFaultWait bounds every pause that a caller may ask for.
const maxFaultWait = time.Hour

// ParseFault reads the text of a Fault.
func ParseFault(text string) (Fault, error) {
	var f Fault
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if seen[key] {
			return Fault{}, fmt.Errorf("fault %q: %q is there twice", text, key)
		}
		seen[key] = true
		if err := f.set(key, value); err != nil {
			return Fault{}, fmt.Errorf("fault %q: %w", text, err)
		}
	}
	if f.RetryAfter > 0 && f.Status == 0 {
		return Fault{}, fmt.Errorf("fault %q: retry-after needs a status", text)
	}
	return f, nil
}

// flags are the endings without a number, counts those with one.
var (
	flags  = map[string]ending{"refuse": endRefuse, "earlyclose": endClose, "never": endNever, "short": endShort}
	counts = map[string]ending{"reset": endReset, "cut": endCut, "stall": endStall, "garbage": endGarbage, "badjson": endBadJSON}
)

func (f *Fault) set(key, value string) (err error) {
	switch key {
	case "status":
		f.Status, err = number(key, value, 200, 599)
		return err
	case "retry-after":
		var s int
		s, err = number(key, value, 0, 1<<20)
		f.RetryAfter = time.Duration(s) * time.Second
		return err
	case "delay":
		f.Delay, err = pause(key, value)
		return err
	case "ttft":
		f.FirstToken, err = pause(key, value)
		return err
	case "slow":
		f.Slow, err = pause(key, value)
		return err
	case "contenttype":
		if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("contenttype %q is not visible ASCII", value)
		}
		f.ContentType = value
		return nil
	}
	end, n := flags[key], 0
	switch {
	case end != endWell && value != "":
		return fmt.Errorf("%s takes no value", key)
	case end != endWell:
	case key == "reset" && value == "before":
		end = endResetBefore
	case key == "reset" && value == "headers":
		end = endResetHeaders
	default:
		if end = counts[key]; end == endWell {
			return fmt.Errorf("unknown part %q; want status, retry-after, delay, ttft, slow, contenttype, refuse, reset, earlyclose, never, cut, stall, garbage, badjson or short", key)
		}
		if n, err = number(key, value, 0, 1<<20); err != nil {
			return err
		}
	}
	if f.ending != endWell {
		return fmt.Errorf("%s is a second ending", key)
	}
	f.ending, f.after = end, n
	return nil
}

func number(key, value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %q is not a number from %d to %d", key, value, least, most)
	}
	return n, nil
}

func pause(key, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > maxFaultWait {
		return 0, fmt.Errorf("%s %q is not a duration such as 200ms, at most %v", key, value, maxFaultWait)
	}
	return d, nil
}

// A rule says which requests meet a fault.
type rule struct {
	Spec      string    `json:"spec"`
	Rate      float64   `json:"rate"`
	Left      int       `json:"left,omitempty"` // faults still to come, 0 for no end
	Until     time.Time `json:"until,omitzero"` // when it ends, zero for never
	Endpoints []string  `json:"endpoints,omitempty"`

	kinds []Fault // one is drawn
}

// maxRules bounds the rules that are in force at once.
const maxRules = 64

var errRules = errors.New("too many fault rules; delete some first")

// faults draws the fault of each request that brings none of its own.
type faults struct {
	mu    sync.Mutex
	dice  dice   // guarded by mu
	rules []rule // guarded by mu; the first that hits is met
}

func newFaults(cfg Config, engine int) (*faults, error) {
	fs := &faults{dice: dice(mix(uint64(cfg.Seed) + uint64(engine)<<32))}
	if len(cfg.Faults) == 0 {
		return fs, nil
	}
	r := rule{Spec: strings.Join(cfg.Faults, " or "), Rate: cfg.FaultRate, Left: cfg.FaultCount, Endpoints: cfg.FaultEndpoints}
	for _, s := range cfg.Faults {
		f, err := ParseFault(s)
		if err != nil {
			return nil, err
		}
		r.kinds = append(r.kinds, f)
	}
	fs.rules = []rule{r}
	return fs, nil
}

func (fs *faults) add(r rule) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.rules) >= maxRules {
		return errRules
	}
	fs.rules = append(fs.rules, r)
	return nil
}

func (fs *faults) clear() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.rules = nil
}

func (fs *faults) list(now time.Time) []rule {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.expireLocked(now)
	return append([]rule{}, fs.rules...)
}

// expireLocked drops the rules whose time is over. fs.mu must be held.
func (fs *faults) expireLocked(now time.Time) {
	fs.rules = slices.DeleteFunc(fs.rules, func(r rule) bool { return !r.Until.IsZero() && !now.Before(r.Until) })
}

// draw returns the fault that a request to path meets, nil if none.
func (fs *faults) draw(path string, now time.Time) *Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.rules) == 0 {
		return nil
	}
	fs.expireLocked(now)
	for i := range fs.rules {
		r := &fs.rules[i]
		if len(r.Endpoints) > 0 && !slices.Contains(r.Endpoints, path) || fs.dice.unit() >= r.Rate {
			continue
		}
		f := r.kinds[fs.dice.below(len(r.kinds))]
		if r.Left > 0 {
			if r.Left--; r.Left == 0 {
				fs.rules = slices.Delete(fs.rules, i, i+1)
			}
		}
		return &f
	}
	return nil
}

// shows reports whether f makes an answer other than a good one.
func (f *Fault) shows() bool {
	return f.Status != 0 || f.ContentType != "" || f.ending != endWell
}

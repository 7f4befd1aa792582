package fleet

import (
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
)

// A worker that is well again must not wait for the end of the streams that
// showed it. In a script "go" is a request that passes and "deny" one that must
// not; "0^" is the beginning of the first one's answer, "0ok", "0fail" and
// "0meh" are its end. Two successes close the breaker, one failure opens it.
func TestATrialIsWonWhenItsAnswerBegins(t *testing.T) {
	tests := []struct {
		name   string
		script string
		want   breaker.State
		ended  [3]uint64 // success, failure, neutral
	}{
		{"two answers have begun", "go go deny 0^ 1^ go go go", breaker.Closed, [3]uint64{}},
		{"one has: another may try", "go go deny 0^ go deny", breaker.HalfOpen, [3]uint64{}},
		{"its end does not count again", "go 0^ 0ok go go deny", breaker.HalfOpen, [3]uint64{1, 0, 0}},
		{"told twice, it counts once", "go 0^ 0^ go go deny", breaker.HalfOpen, [3]uint64{}},
		{"without a word it counts at its end", "go go 0ok 1ok", breaker.Closed, [3]uint64{2, 0, 0}},
		{"it breaks off while others try", "go go 0^ 0fail deny", breaker.Open, [3]uint64{0, 1, 0}},
		{"it breaks off after it has closed the breaker", "go go 0^ 1^ go 1fail deny", breaker.Open, [3]uint64{0, 1, 0}},
		{"its client leaves later", "go 0^ 0meh go go deny", breaker.HalfOpen, [3]uint64{0, 0, 1}},
		{"another one has failed meanwhile", "go go 0fail 1^ 1ok deny", breaker.Open, [3]uint64{1, 1, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			w := &Worker{meter: new(Meter), br: breaker.New(breaker.Config{Failures: 1, Successes: 2, Rest: time.Second})}
			w.br.Done(now, breaker.Failure)
			now = now.Add(time.Second)
			var out []Lease
			for step := range strings.FieldsSeq(tt.script) {
				if step == "go" || step == "deny" {
					l, ok := w.Acquire(now)
					if ok != (step == "go") {
						t.Fatalf("at %d requests out, %q: passes: %v", len(out), step, ok)
					}
					if ok {
						out = append(out, l)
					}
					continue
				}
				l := &out[step[0]-'0']
				switch step[1:] {
				case "^":
					l.Answered(now)
				case "ok":
					l.Release(now, breaker.Success)
				case "fail":
					l.Release(now, breaker.Failure)
				case "meh":
					l.Release(now, breaker.Neutral)
				}
			}
			if got := w.br.State(); got != tt.want {
				t.Errorf("the breaker is %v, want %v", got, tt.want)
			}
			success, failure, neutral := w.Outcomes()
			if got := [3]uint64{success, failure, neutral}; got != tt.ended {
				t.Errorf("outcomes %v, want %v", got, tt.ended)
			}
		})
	}
}

package bench

import (
	"time"
)

const meterEvery = 200 * time.Millisecond

// A meter measures, from the beginning of the measured time to its end, how
// long it is and what the client and a process use.
type meter struct {
	from, until time.Time // until is zero if it has no set end
	proc        *process  // nil: none

	end        chan struct{} // closed when nothing is sent and nothing runs any more
	done       chan struct{} // closed by run; what follows may then be read
	begun      bool
	length     time.Duration
	self       time.Duration
	selfKnown  bool
	first, now use
	maxRSS     int64
	samples    int
	err        error // why the process could not be measured to the end
}

func newMeter(from, until time.Time, proc *process) *meter {
	return &meter{from: from, until: until, proc: proc, end: make(chan struct{}), done: make(chan struct{})}
}

// run measures until the measured time is over or end is closed.
func (m *meter) run() {
	defer close(m.done)
	wait := time.NewTimer(time.Until(m.from))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-m.end:
		return
	}
	m.begun = true
	begin := time.Now()
	before, known := selfCPU()
	m.sample()
	var over <-chan time.Time
	if !m.until.IsZero() {
		t := time.NewTimer(time.Until(m.until))
		defer t.Stop()
		over = t.C
	}
	tick := time.NewTicker(meterEvery)
	defer tick.Stop()
	for going := true; going; {
		select {
		case <-tick.C:
			m.sample()
		case <-over:
			going = false
		case <-m.end:
			going = false
		}
	}
	m.sample()
	m.length = time.Since(begin)
	after, _ := selfCPU()
	m.self, m.selfKnown = after-before, known
}

// sample measures the process once. What was measured before it ended stays.
func (m *meter) sample() {
	if m.proc == nil || m.err != nil {
		return
	}
	u, err := m.proc.use()
	if err != nil {
		m.err = err
		return
	}
	if m.samples == 0 {
		m.first = u
	}
	m.now, m.maxRSS = u, max(m.maxRSS, u.rss)
	m.samples++
}

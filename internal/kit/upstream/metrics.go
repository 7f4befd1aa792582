package upstream

import "sluice/internal/kit/metric"

// Metrics count what happens to connections to workers. Requests are counted
// by who sends them.
type Metrics struct {
	Opened  *metric.Counter    `name:"sluice_upstream_connections_opened_total" help:"Connections to workers that were opened."`
	Failed  *metric.Counter    `name:"sluice_upstream_connections_failed_total" help:"Connections to workers that could not be opened."`
	Reused  *metric.Counter    `name:"sluice_upstream_connections_reused_total" help:"Requests that were sent on a connection which had served another before."`
	Replays *metric.Counter    `name:"sluice_upstream_replays_total" help:"Requests that were sent again because the worker had closed the connection before it had them."`
	Waited  *metric.Counter    `name:"sluice_upstream_connection_waits_total" help:"Requests that waited because a worker had as many connections as it may have."`
	Slow    *metric.CounterVec `name:"sluice_upstream_timeouts_total" labels:"phase" max:"8" help:"Requests for which a worker was too slow, by what was waited for: wait (a connection that others have), dial, send, answer (its head), body."`
	Lookups *metric.Counter    `name:"sluice_upstream_lookups_failed_total" help:"Lookups of workers' names that failed. While it is not said that a name is gone, where it led last is used for up to five minutes."`
	Closed  *metric.CounterVec `name:"sluice_upstream_connections_closed_total" labels:"reason" max:"16" help:"Connections to workers that were closed: told (worker's word), hangup, idle, limit, unsolicited (worker sent what nobody asked for), error, ended (request given up), moved (address), descriptors (another connection needed one), shutdown."`
	Open    *metric.GaugeFunc  `name:"sluice_upstream_connections" help:"Connections to workers that are open, tunnels left out."`
	Idle    *metric.GaugeFunc  `name:"sluice_upstream_connections_idle" help:"Connections to workers that are open and unused."`
}

// A reason is why a connection was closed.
type reason uint8

const (
	told        reason = iota // the worker said that it would not keep it
	hangup                    // the worker closed it while it was unused
	idle                      // unused for too long
	limit                     // too many are unused
	unsolicited               // bytes came that nobody asked for
	failed                    // an exchange failed on it
	ended                     // whoever waited for the answer gave up
	moved                     // the worker's name does not lead there any more
	descriptors               // another connection needed its descriptor
	shutdown
	reasons
)

var reasonNames = [reasons]string{"told", "hangup", "idle", "limit", "unsolicited", "error", "ended", "moved", "descriptors", "shutdown"}

// counters are the counters of a Client, bound once.
type counters struct {
	Metrics
	closed [reasons]*metric.Counter
	slow   map[string]*metric.Counter // by Op; not written to after bind
}

func bind(m *Metrics) counters {
	var c counters
	if m == nil {
		return c
	}
	c.Metrics = *m
	if m.Closed != nil {
		for r := range reasons {
			c.closed[r] = m.Closed.With(reasonNames[r])
		}
	}
	if m.Slow != nil {
		c.slow = make(map[string]*metric.Counter)
		for op := range opText {
			c.slow[op] = m.Slow.With(op)
		}
	}
	return c
}

package server

import (
	"errors"
	"fmt"
	"math"
)

// A client's connection is of no use without one to a worker, and the two take
// descriptors from one store. So clients may have half of it, less what files,
// listeners and look-ups need: others then wait in the kernel's queue, and
// nobody's request fails for want of a descriptor.

// maxOtherFiles is how many descriptors are kept for what is neither a client's
// connection nor one to a worker; of a small store, a quarter is.
const maxOtherFiles = 256

// mostClients returns how many clients' connections there may be if so many
// descriptors may be open. 0 says that this is not known: then there is no bound
// but --max-connections, and the system's refusals.
func mostClients(descriptors int) int {
	if descriptors <= 0 {
		return math.MaxInt
	}
	return max((descriptors-min(maxOtherFiles, descriptors/4))/2, 1)
}

// errCrowded is why clients wait although there are descriptors.
var errCrowded = errors.New("the other descriptors are kept for connections to workers")

// crowded says why no client is accepted now, or returns nil. Once it has, some
// must leave before it changes its mind: a place or two at a time would be a
// beginning and an end of trouble for each.
//
// A connection that speaks HTTP/2 takes one place, as all do, but each of its
// streams (up to 250, which is net/http's bound) needs a worker's connection once
// its body has come. So streams beyond one a connection take places of their own
// from then on. That keeps new clients from making the want worse; it cannot keep
// those who are here from opening streams. --max-connections-per-address bounds
// what one of them takes, and unused connections to workers give up theirs for a
// new one.
func (f *Front) crowded() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.open + max(int(f.streams.Load())-len(f.guests), 0)
	bound := f.most
	if f.waiting {
		bound -= min(f.most/64, 16)
	}
	if f.waiting = taken >= bound; !f.waiting {
		return nil
	}
	return fmt.Errorf("clients have %d places of %d: %w", taken, f.most, errCrowded)
}

package wasm

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"sluice/internal/wasm/core"
)

// A guest that runs for long shares a processor with everything else that the
// gateway does. Left to itself, the Go scheduler gives each goroutine 10 ms, so
// that a request would wait for that behind every such guest, at each of its
// steps. A guest therefore gives way each time it has used up its slice: the
// function that it calls then is one that the engine tells of.
//
// To let others that are ready run is enough for a guest that is done soon. It is
// not if guests keep all processors busy: the scheduler looks at the network only
// when it has no goroutine to run, and otherwise every 10 ms, so that a request
// would wait for that as often as it waits for a socket. A guest that goes on
// waits until the network has been looked at. When nobody else is there that is
// at once.
//
// Nor is that enough for others on the same machine, the workers among them: the
// system takes a thread for one that deserves its processor for some milliseconds
// at a time, however often it looks at the network. Beside guests that spin,
// others' requests took 7 ms in the worst of a hundred cases because who sent and
// who answered them waited for a processor; they take 2 if such a thread cedes
// its own now and then.

// fewSlices is how many slices a call has before it waits for the network. With
// Slice they are less than a tenth of a millisecond, or some.
const fewSlices = 4

// A call that has run for longCall cedes the processor if none has in cedeEvery.
// That is about what the system gives a thread at a time: who computes beside gets
// its half, and not more. Ceded after 16 slices each, a guest had a tenth.
const (
	longCall  = 5 * time.Millisecond
	cedeEvery = time.Millisecond
)

// What the host does for a guest is no fuel of the guest's, so it is counted here:
// in bytes that are copied or looked at, and as so many for a call and for each
// thing that it goes through. After workSlice of them, which take less than a tenth
// of a millisecond too, the guest gives way as it does when its own slice is used up.
const (
	workSlice = 256 << 10
	workCall  = 256
	workThing = 16
)

// works counts n bytes of work that the host does in in's call, and reports whether
// it may go on: false if the call is to end.
func (in *instance) works(n int) bool {
	if in.work += n; in.work < workSlice {
		return true
	}
	in.work = 0
	in.giveWay()
	return in.word.Load()&stateOf <= running
}

// spend counts work that a function of the host is about to do, and ends the call
// that is to end.
func (in *instance) spend(n int) {
	if in.work += n; in.work >= workSlice && !in.works(0) {
		in.checkTime()
	}
}

// isText reports whether b is UTF-8, for a function of the host.
func (in *instance) isText(b []byte) bool {
	for len(b) > workSlice {
		n := workSlice
		for n > workSlice-utf8.UTFMax && !utf8.RuneStart(b[n]) {
			n--
		}
		if !utf8.Valid(b[:n]) {
			return false
		}
		in.spend(n)
		b = b[n:]
	}
	return utf8.Valid(b)
}

// move copies all of from, in pieces that are work of a slice each. It reports
// false if the call is to end.
func (in *instance) move(to, from []byte) bool {
	for len(from) > workSlice {
		copy(to, from[:workSlice])
		to, from = to[workSlice:], from[workSlice:]
		if !in.works(workSlice) {
			return false
		}
	}
	copy(to, from)
	return true
}

// rest lets other goroutines run, those too that are woken by the network.
func (w *watch) rest() {
	if w.slices++; w.slices > fewSlices {
		waitForNetwork()
		return
	}
	runtime.Gosched()
}

// A turn is when the processor was last ceded.
type turn struct{ last atomic.Int64 } // Unix nanoseconds

// over reports whether the processor is to be ceded at now by a call that has run
// for so long. If so, it is not soon again.
func (t *turn) over(now time.Time, ran time.Duration) bool {
	last, n := t.last.Load(), now.UnixNano()
	return ran >= longCall && (n-last >= int64(cedeEvery) || n < last) && t.last.CompareAndSwap(last, n)
}

// processTurn is that of all calls.
var processTurn turn

// compileCore compiles a core module, which has been rewritten.
func compileCore(ctx context.Context, rt wazero.Runtime, m *core.Module, out *core.Rewritten) (wazero.CompiledModule, error) {
	look := uint32(out.Funcs) // comes after the module's own
	for i := range m.Imports {
		if m.Imports[i].Kind == core.Func {
			look++
		}
	}
	return rt.CompileModule(experimental.WithFunctionListenerFactory(ctx, lookAt(look)), out.Binary)
}

// lookAt is the index of the function that a guest calls when its slice is used
// up.
type lookAt uint32

// NewFunctionListener implements experimental.FunctionListenerFactory.
func (i lookAt) NewFunctionListener(f api.FunctionDefinition) experimental.FunctionListener {
	if f.Index() == uint32(i) {
		return givesWay{}
	}
	return nil
}

// givesWay implements experimental.FunctionListener.
type givesWay struct{}

func (givesWay) Before(ctx context.Context, _ api.Module, _ api.FunctionDefinition, _ []uint64, _ experimental.StackIterator) {
	ctx.Value(instanceKey{}).(*instance).giveWay()
}

func (givesWay) After(context.Context, api.Module, api.FunctionDefinition, []uint64) {}

func (givesWay) Abort(context.Context, api.Module, api.FunctionDefinition, error) {}

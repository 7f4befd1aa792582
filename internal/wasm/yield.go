package wasm

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

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

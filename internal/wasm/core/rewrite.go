package core

import (
	"fmt"
	"strings"
)

// The names under which a rewritten module exports what was added to it.
// Globals of them are of type i32, but those of Rewritten.Globals.
const (
	reserved = "sluice!" // what they begin with; a module may not use it. Not "sluice:", with which the hooks of our own world begin

	FuelGlobal  = reserved + "fuel"  // what may be paid until the next look at StopGlobal
	SliceGlobal = reserved + "slice" // what FuelGlobal begins with after it
	StopGlobal  = reserved + "stop"  // not 0: the guest is to end
	StackGlobal = reserved + "stack" // bytes of stack that calls may still use
	WhyGlobal   = reserved + "why"   // why a guest was ended, see WhyStopped

	freshGlobal = reserved + "fresh"

	// StartFunction is the module's start function, which does not run by
	// itself any more: whoever runs it can stop it.
	StartFunction = reserved + "start"
)

// What WhyGlobal holds after a trap.
const (
	WhyItself  = iota // the guest's own doing
	WhyStopped        // StopGlobal was set
	WhyStack          // its calls were nested too deep
)

// Slice is what a guest pays between two looks at StopGlobal: it then leaves
// compiled code, so that the garbage collector is not kept waiting for longer than
// it takes. Each check is one, and what runs between two is one for every tariff
// of weight: so a slice is some microseconds of most guests, and at most some
// milliseconds of one that waits for memory at each instruction. Who finds that it
// takes long makes those that follow shorter, by SliceGlobal.
const Slice = 10_000

// Weight is about what code may take in the worst case. A byte of it is one, which
// is 7 ns of square roots; an instruction that reads or writes memory may have to
// wait 100 ns for it.
const (
	tariff     = 64
	loadWeight = 13 // more than its bytes
	rootWeight = 4  // of divisions, too

	// Where two ways meet, the engine moves each local that one of them has set, and
	// what a block, a loop or a call passes. That is one each; of locals as many as
	// there are registers, or some more, cost little.
	freeMoves = 64
)

// freshSlice is Slice for a guest that has grown its memory. The first write to
// each of the system's pages there is a check like others, and takes hundreds of
// times as long. So it has such slices until there were as many checks in them as
// there are new pages.
const (
	freshSlice    = 64
	freshPerShift = 4 // 1<<4 of the system's pages are one of memory
)

// An Options says how a module is to be changed.
type Options struct {
	// Links are the names that imports get, as Module.Imports; nil leaves them.
	Links []Link

	// Stack is what StackGlobal begins with.
	Stack uint32

	// Called are the names of the functions that other modules call; nil for
	// all that are exported. Who is not called by others cannot be called back.
	Called map[string]bool

	// Pages is how many pages a memory may have; 0 for as many as there can be.
	// A module that begins with more is refused.
	Pages uint32
}

// A Link is the name of an import.
type Link struct {
	Module, Name string
	Guest        bool // it is another module's, or may call one
}

// A Rewritten is a module that can be stopped, and put back to where it was.
type Rewritten struct {
	Binary  []byte
	Globals []string // exports: the mutable globals that the module defines, and one that is added
	Memory  bool     // it defines one

	// Frozen says why an instance of it cannot be put back by writing its
	// memory and its globals; "" if it can.
	Frozen string

	Funcs, Loops int // that it has
	Code, Effort int // what compiling it takes, see Affordable
}

// Affordable reports whether compiling modules comes to an end soon that have so
// much code and effort in all. Each alone has, or Rewrite refuses it.
func Affordable(code, effort int) bool { return effort <= maxEffort+effortPerByte*code }

// Rewrite changes m so that whoever runs it stays master of it.
//
// A guest pays at the head of every loop and of every function, but for small
// ones, and wherever it has run code of the weight stride without; every Slice of that
// it leaves compiled code, where the Go runtime can stop it, and looks whether it
// is to end. What fills or copies much memory is done in pieces. Calls that may
// recurse pay for their frame from a stack of bounded size. Mutable globals are exported. Nothing that the module had changes its
// index.
//
// What the module has beyond the bounds below is refused, and so is every
// instruction that is not known: an *Error names it and says where it stands.
func Rewrite(m *Module, o Options) (*Rewritten, error) {
	w, err := newRewriter(m, o)
	if err != nil {
		return nil, err
	}
	if err := w.write(); err != nil {
		return nil, err
	}
	w.out.Code, w.out.Effort = w.codeSize, w.effort
	return w.out, nil
}

// newRewriter looks at all of m.
func newRewriter(m *Module, o Options) (*rewriter, error) {
	w := &rewriter{m: m, opt: o, out: &Rewritten{}, start: -1}
	for _, e := range m.Exports {
		if strings.HasPrefix(e.Name, reserved) {
			return nil, &Error{Offset: m.Offset, Msg: fmt.Sprintf("an export is named %.64q, which is the gateway's", e.Name)}
		}
	}
	if err := w.scan(); err != nil {
		return nil, err
	}
	w.findGuests()
	return w, w.measure(w.findRecursion())
}

// Bounds of a module. They are some times what the largest guests have, and keep
// a small binary from making much: the engine keeps 8 bytes for each local and
// for each element of a table, and takes time that grows faster than the number
// of a function's blocks, and than that of its loops and locals.
const (
	maxTables   = 16
	maxElements = 1 << 17 // of all tables, and of one that grows
	maxCuts     = 1 << 22 // loops and calls
	maxBody     = 1 << 21 // bytes of a function
	maxBlocks   = 1 << 14 // of a function, and branches
	maxDepth    = 1 << 13 // of blocks within blocks
	maxLoops    = 1 << 6  // of loops within loops

	// Of a function: its work by its locals, which the engine may keep 250 bytes
	// each for. Interpreters of large languages have two million in one, and many
	// bytes of code beside it.
	minTangle = 1 << 20
	maxTangle = 1 << 22

	// Of all functions: their effort, which takes the engine 20 ns each, or 35.
	// A byte of code may take four times as long as in the largest guests.
	maxEffort       = 100 << 20
	effortPerByte   = 100
	effortPerTangle = 16
	effortPerValue  = 80 // that is passed, with many others, by a call or a block
)

// effort is what of the time that compiling b takes grows faster than b: with the
// square of its work, with its work by its locals, and in loops with the square of
// its locals, once for each loop that they are in; and of values that are passed
// many at once, for which few bytes of code are enough.
func (b *body) effort() int {
	return b.work*b.work + b.tangle()*effortPerTangle + b.nested*int(b.locals)*int(b.locals)/8 + b.many*effortPerValue
}

func (b *body) tangle() int { return b.work * int(b.locals) }

// mostTangle is how much of it a function may have. Who wants much has to send
// more.
func (w *rewriter) mostTangle() int { return min(minTangle+w.codeSize/2, maxTangle) }

// workOf is how many blocks what is added at a cut counts as: of what takes the
// engine as long. Some of it is blocks.
var workOf = [...]int{cutLoop: 2, cutPay: 1, cutBulk: 1, cutCall: 2, cutTail: 2, cutLeave: 1, cutThrow: 3, cutGrow: 1}

const workOfFill = 2 // the engine makes a loop of it

// A rewriter holds what is known of a module.
type rewriter struct {
	m   *Module
	opt Options
	out *Rewritten

	secs     []section
	types    []*FuncType
	sigs     []uint32 // of all functions, types' indices
	imported int      // functions
	guests   []bool   // of imported functions: it may call back
	tables   int
	elements uint32 // that the tables begin with
	memories int
	foreign  bool // the memory is imported
	globals  int
	mutable  []uint32 // globals that the module defines
	tags     int
	start    int64 // a function, -1 for none
	funcs    []body
	codeSize int      // of all functions
	locals   int      // of all functions
	effort   int      // of all functions
	cuts     int      // of all functions
	taken    []uint32 // functions whose address is taken
	shapes   []uint32 // of types: the first that is equal
	shared   bool     // functions may change hands with other modules
	scc      []int32  // of nodes, see findRecursion
	open     []frame  // of a walk
	run      int      // of a walk: weight since the guest has paid, on the heaviest way there; unreachable for none
	from     int      // of a walk: up to where bytes are counted in run
	data     []int    // lengths of data segments
	literal  int      // of a walk: what the last instruction left, if it was a constant; else or if it is negative -1
	before   int      // of a walk: the same of the one before that
	parted   []parted // instructions that are done in pieces, by functions that are added
	wraps    []byte   // types that are added for blocks around bodies
	wrapped  []uint32 // of which types' results they have
}

type section struct {
	id   byte
	body []byte
	off  int
}

// A body is a function's code.
type body struct {
	index   int    // among those of the module
	code    []byte // its instructions
	off     int
	decl    []byte // its locals, as they are declared
	groups  uint32 // of locals
	locals  uint32 // with parameters
	blocks  int
	work    int  // blocks, and what is added, counted as such
	nested  int  // in how many loops its loops are, all together
	bulk    bool // copies or fills memory, or tables, by a number that is not known
	catches bool // exceptions
	tries   bool // the same, and its cuts have the returns
	free    bool // who calls it pays for it
	most    int  // weight that it may run without paying
	passed  int  // values that one of its calls passes, at most
	sets    int  // of a walk: times that a local is set, up to there
	heavy   int  // bytes that the engine takes for its instructions, see memory.go
	loads   int  // and stores
	values  int  // that its calls and blocks pass
	many    int  // of values, those that are passed many at once
	cuts    []cut
}

// A cut is a place in a body where something is added.
type cut struct {
	at   uint32
	to   int32 // of a call: the function, or throughTable minus the type's shape; of a loop: how many values it takes
	cost int16 // what is paid at a loop, or at a cutPay
	kind byte
}

const throughTable = -1

const (
	cutLoop  = iota // after a loop's head
	cutPay          // where much code has been run since the last one
	cutBulk         // at an instruction whose last operand is how much it does
	cutCall         // around a call
	cutTail         // before a call that takes the place of who calls
	cutLeave        // before a return
	cutThrow        // before an exception
	cutGrow         // around an instruction that grows memory
)

// frame is about how many bytes of stack a call of b takes: its locals, what its
// calls pass, and what the compiler keeps.
func (b *body) frame() uint32 {
	return 96 + 8*b.locals + 8*uint32(b.passed) + uint32(min(len(b.code), 1<<16)/16)
}

// stride is the weight of what a guest may run without paying, and maxFree what a
// function may so that its callers count it as theirs.
const (
	stride  = 2560
	maxFree = stride / 2
)

// MostCost is the most that is paid at once. A slice must not be shorter.
const MostCost = 250

// cost is what is paid for a check and a weight that has been run.
func cost(weight int) int16 { return int16(min(1+max(weight, 0)/tariff, MostCost)) }

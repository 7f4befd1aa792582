package cores

import "golang.org/x/sys/unix"

// niceness makes the share of a thread a third of what others have. Much less
// would be felt by all: what the runtime does with the world stopped, or under a
// lock of its own, waits for that thread too.
const niceness = 5

// stepBack takes the smaller share, for the rest of the calling thread's life. A
// thread that may not have it is as quick as the others.
func stepBack() { _ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness) }

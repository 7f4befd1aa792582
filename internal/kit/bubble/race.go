//go:build race

package bubble

// raced reports whether the race detector is built in.
const raced = true

//go:build race

package radix

const raced = true // the detector allocates, and is slow

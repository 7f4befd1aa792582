//go:build race

package metric

const raced = true // the detector allocates

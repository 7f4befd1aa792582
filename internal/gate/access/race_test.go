//go:build race

package access

const raced = true // the detector allocates

//go:build race

package cors

const raced = true // the detector allocates

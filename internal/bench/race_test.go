//go:build race

package bench

const raceEnabled = true // the detector allocates

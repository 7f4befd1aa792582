//go:build !race

package bench

const raceEnabled = false // the detector allocates

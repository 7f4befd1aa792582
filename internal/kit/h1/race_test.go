//go:build race

package h1

const raced = true // the detector allocates

//go:build !linux

package cores

func stepBack() {}

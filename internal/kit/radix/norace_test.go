//go:build !race

package radix

const raced = false

//go:build !race

package metric

const raced = false

//go:build !race

package blocks

const raced = false

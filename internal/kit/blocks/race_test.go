//go:build race

package blocks

const raced = true

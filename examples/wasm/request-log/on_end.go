package main

//go:wasmexport sluice:gateway/on-end@0.1.0#on-end
func onEndExport(status uint32, ms, input, output uint64) {
	onEnd(Summary{Status: uint16(status), DurationMillis: ms, InputTokens: input, OutputTokens: output})
	done()
}

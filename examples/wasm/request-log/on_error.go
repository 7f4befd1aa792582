package main

//go:wasmexport sluice:gateway/on-error@0.1.0#on-error
func onErrorExport(status, cp, cn, mp, mn uint32) {
	onError(Failure{Status: uint16(status), Code: list{cp, cn}.text(), Message: list{mp, mn}.text()})
	done()
}

package main

import "unsafe"

//go:wasmexport sluice:gateway/on-request@0.1.0#on-request
func onRequestExport(mp, mn, pp, pn, qp, qn, hp, hn, bp, bn, ip, in uint32, now uint64) unsafe.Pointer {
	return onRequest(Request{
		Method: list{mp, mn}.text(), Path: list{pp, pn}.text(), Query: list{qp, qn}.text(), Headers: list{hp, hn}.headers(),
		Body: list{bp, bn}.bytes(), ID: list{ip, in}.text(), NowMillis: now,
	}).lower()
}

//go:wasmexport cabi_post_sluice:gateway/on-request@0.1.0#on-request
func onRequestDone(uint32) { done() }

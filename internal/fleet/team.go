package fleet

// A Team is the workers of one attempt. Lead answers. Prefill computes the prompt
// for it; it is nil where Lead does that itself.
type Team struct {
	Lead, Prefill *Worker
}

package fleet

// A Team is the workers of one attempt. Lead answers.
type Team struct {
	Lead *Worker
}

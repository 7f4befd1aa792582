package policy

// Metrics is what policies count. The names are the contract's where it has
// them.
type Metrics struct{}

package policy

import "sluice/internal/kit/metric"

// Metrics is what policies count. The names are the contract's where it has
// them.
type Metrics struct {
	ConsistentHashingBranch *metric.CounterVec   `name:"smg_consistent_hashing_policy_branch_total" labels:"branch" help:"Decisions of consistent_hashing, by what they went by."`
	PrefixHashBranch        *metric.CounterVec   `name:"smg_prefix_hash_policy_branch_total" labels:"branch" help:"Decisions of prefix_hash, by what they went by."`
	ManualBranch            *metric.CounterVec   `name:"smg_manual_policy_branch_total" labels:"branch" help:"Decisions of manual and of the routing key override, by what was remembered."`
	ManualEntries           *metric.GaugeFunc    `name:"smg_manual_policy_cache_entries" help:"Routing keys that are remembered."`
	RoutingKeys             *metric.GaugeVecFunc `name:"smg_worker_routing_keys_active" labels:"worker" help:"Routing keys with requests in flight at a worker."`

	pinned pinLists // what the last two are asked of
}

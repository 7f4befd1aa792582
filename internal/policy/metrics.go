package policy

import "sluice/internal/kit/metric"

// Metrics is what policies count. The names are the contract's where it has
// them.
type Metrics struct {
	ConsistentHashingBranch *metric.CounterVec   `name:"smg_consistent_hashing_policy_branch_total" labels:"branch" help:"Decisions of consistent_hashing, by what they went by."`
	PrefixHashBranch        *metric.CounterVec   `name:"smg_prefix_hash_policy_branch_total" labels:"branch" help:"Decisions of prefix_hash, by what they went by."`
	ManualBranch            *metric.CounterVec   `name:"smg_manual_policy_branch_total" labels:"branch" help:"Decisions of manual and of the routing key override, by what was remembered."`
	ManualEntries           *metric.GaugeFunc    `name:"smg_manual_policy_cache_entries" help:"Routing keys that are remembered."`
	IndexBytes              *metric.GaugeFunc    `name:"sluice_policy_index_bytes" help:"Memory for what policy cost remembers of prompts, of all models."`
	RoutingKeys             *metric.GaugeVecFunc `name:"smg_worker_routing_keys_active" labels:"worker" help:"Routing keys with requests in flight at a worker."`

	CacheAwareBranch *metric.CounterVec `name:"smg_cache_aware_policy_branch_total" labels:"branch" help:"Decisions of cache_aware, by what they went by."`
	CacheAwareRatio  *metric.Histogram  `name:"smg_cache_aware_match_ratio" buckets:"0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1" help:"Part of a prompt that some worker was known to hold."`
	TreeText         *metric.GaugeFunc  `name:"sluice_cache_aware_text_bytes" help:"Bytes of prompts that cache_aware remembers, each counted for every worker that holds it; --max-tree-size bounds it for each model."`
	TreeMemory       *metric.GaugeFunc  `name:"sluice_cache_aware_memory_bytes" help:"Memory that they take."`

	pinned pinLists // what the routing keys' are asked of
	trees  treeList // what the last two are asked of
}

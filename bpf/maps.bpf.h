/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps. Only this header knows how a map is declared and named to the kernel: each loader has its way. */
#ifndef PODWIRE_MAPS_BPF_H
#define PODWIRE_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

#ifdef PODWIRE_BCC
/* Compiled at run time: the maps are there already, made by user space, and each descriptor is a number. */
#define MAP(name) ((void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, PODWIRE_FD_##name))

#define ASSERT_SIZE(type)                                                                                              \
	_Static_assert(sizeof(struct type) == PODWIRE_SIZE_##type, "struct " #type " is of another size in layout.py")
ASSERT_SIZE(flow_key);
ASSERT_SIZE(flow_stats);
ASSERT_SIZE(ledger_key);
ASSERT_SIZE(ledger);
#else
#define MAP(name) (&(name))

/* flow_key -> flow_stats of one epoch. The program adds; nobody clears: user space puts a fresh map
 * in its place, reads it once nothing writes to it any more, and drops it. This declaration gives the
 * shape; the maps in use are made by user space, sized by maxFlows. */
struct flow_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_stats);
};

/* Never filled: without an instance clang 14 leaves the key's type out of the BTF of flow_slots. */
struct flow_map flow_map_shape SEC(".maps");

/* enum flow_direction -> the active flow map. Written by user space at each cut. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, FLOW_DIRECTIONS);
	__type(key, __u32);
	__array(values, struct flow_map);
} flow_slots SEC(".maps");

/* ledger_key -> ledger. User space makes the entry before it attaches and drops it after it has
 * read it a last time; the program adds. Per CPU: no atomics on the hot cells. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, INTERFACE_LIMIT * FLOW_DIRECTIONS);
	__type(key, struct ledger_key);
	__type(value, struct ledger);
} ledgers SEC(".maps");

/* ifindex -> attachment. User space only: what was there before we attached must survive the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, INTERFACE_LIMIT);
	__type(key, __u32);
	__type(value, struct attachment);
} attachments SEC(".maps");
#endif

static __always_inline struct ledger *ledger_of(const struct ledger_key *key)
{
	return bpf_map_lookup_elem(MAP(ledgers), key);
}

static __always_inline void *active_flow_map(__u32 direction)
{
	return bpf_map_lookup_elem(MAP(flow_slots), &direction);
}

#endif

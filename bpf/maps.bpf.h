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
ASSERT_SIZE(address);
ASSERT_SIZE(address_bits);
ASSERT_SIZE(end_bits);
ASSERT_SIZE(known_verdict);
ASSERT_SIZE(packet);
ASSERT_SIZE(prefix_key);
ASSERT_SIZE(rule_bits);
ASSERT_SIZE(rule_set);
ASSERT_SIZE(traffic);
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

/*
 * The rules. Each of the following has a slot a half, and in it a map that user space has filled before the half came
 * into use; an empty slot: no rule asks. Which half is in use is said by the set in rule_slot: so a packet sees one
 * half, whole.
 */

/* 0 -> rule_set. */
struct rule_set_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_set);
} rule_set_shape SEC(".maps");

/* 0 -> the set in use; empty: there are no rules. Written by user space, by one update or deletion. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rule_set_map);
} rule_slot SEC(".maps");

/* ifindex -> end_bits of the pod behind it. */
struct interface_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct end_bits);
} interface_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct interface_map);
} rule_interfaces SEC(".maps");

/* address -> address_bits, looked up before the prefixes. */
struct address_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct address_bits);
} address_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct address_map);
} rule_addresses SEC(".maps");

/* prefix_key -> address_bits. */
struct prefix_map {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix_key);
	__type(value, struct address_bits);
} prefix_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct prefix_map);
} rule_prefixes SEC(".maps");

/* A port in the host's byte order -> the rules that list it or none. */
struct port_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32);
	__type(value, struct rule_bits);
} port_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct port_map);
} rule_ports SEC(".maps");

/* IANA number -> the rules that list the protocol or none. */
struct protocol_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROTOCOLS);
	__type(key, __u32);
	__type(value, struct rule_bits);
} protocol_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct protocol_map);
} rule_protocols SEC(".maps");

/* enum rule_verdict less FIRST_CAUSE -> what was filtered for it. The program adds; a map whose names are no longer in
 * use is read by user space a last time and dropped. Both halves may have the same. */
struct filtered_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FILTER_CAUSES);
	__type(key, __u32);
	__type(value, struct traffic);
} filtered_shape SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_HALVES);
	__type(key, __u32);
	__array(values, struct filtered_map);
} filtered_slots SEC(".maps");

/*
 * 0 -> packet, the one that this CPU works on: a program on a TC hook is not interrupted by another. On the stack the
 * verifier would follow every field's value along every path through the parser, and all that comes after it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

/* flow_key -> known_verdict of a filtered flow. The program writes; what is forgotten is judged again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, VERDICT_LIMIT);
	__type(key, struct flow_key);
	__type(value, struct known_verdict);
} known_verdicts SEC(".maps");
#endif

static __always_inline struct ledger *ledger_of(const struct ledger_key *key)
{
	return bpf_map_lookup_elem(MAP(ledgers), key);
}

static __always_inline void *active_flow_map(__u32 direction)
{
	return bpf_map_lookup_elem(MAP(flow_slots), &direction);
}

/* Zeroed. */
static __always_inline struct packet *fresh_packet(void)
{
	__u32 zero = 0;
	struct packet *packet = bpf_map_lookup_elem(MAP(packets), &zero);

	if (packet)
		__builtin_memset(packet, 0, sizeof(*packet));
	return packet;
}

/* NULL: there are no rules. */
static __always_inline const struct rule_set *active_rule_set(void)
{
	__u32 zero = 0;
	void *slot = bpf_map_lookup_elem(MAP(rule_slot), &zero);

	return slot ? bpf_map_lookup_elem(slot, &zero) : NULL;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether the rules want a packet measured. Each field of the packet has a set of rules that it does not rule out, a
 * bit a rule; what is in all sets holds. So the cost does not depend on the number of rules, nor of what they list.
 */
#ifndef PODWIRE_MATCH_BPF_H
#define PODWIRE_MATCH_BPF_H

#include <stdbool.h>

#include <bpf/bpf_endian.h>

#include "maps.bpf.h"

/*
 * The rules that are not ruled out yet. Each look-up's result goes into these numbers at once: pointers into different
 * maps, kept side by side, would give the verifier a state for each of their combinations.
 */
struct candidates {
	struct end_bits near; /* the near end is the one described, or the peer */
	struct end_bits far;
	struct rule_bits fields; /* protocol and ports */
};

static __always_inline void keep_bits(struct rule_bits *bits, const struct rule_bits *allowed)
{
	bits->of[BLACKLIST] &= allowed->of[BLACKLIST];
	bits->of[WHITELIST] &= allowed->of[WHITELIST];
}

/* False: whose the near end is has yet to be found out. */
static __always_inline bool match_interface(const struct rule_set *set, __u32 half, __u32 ifindex,
					    struct candidates *candidates)
{
	void *interfaces = bpf_map_lookup_elem(MAP(rule_interfaces), &half);
	const struct end_bits *bits = NULL;

	if (interfaces)
		bits = bpf_map_lookup_elem(interfaces, &ifindex);
	if (!bits) {
		if (set->hold)
			return false;
		bits = &set->stranger;
	}
	candidates->near = *bits;
	return true;
}

static __always_inline void match_address(const struct rule_set *set, __u32 half, const __u8 *address, const bool near,
					  struct candidates *candidates)
{
	void *addresses = bpf_map_lookup_elem(MAP(rule_addresses), &half);
	void *prefixes = bpf_map_lookup_elem(MAP(rule_prefixes), &half);
	struct prefix_key prefix = {.length = 128};
	const struct address_bits *bits = NULL;

	if (addresses)
		bits = bpf_map_lookup_elem(addresses, address);
	if (!bits && prefixes) {
		__builtin_memcpy(&prefix.address, address, sizeof(prefix.address));
		bits = bpf_map_lookup_elem(prefixes, &prefix);
	}
	if (!bits)
		bits = &set->elsewhere;
	if (near) {
		keep_bits(&candidates->near.described, &bits->near.described);
		keep_bits(&candidates->near.peer, &bits->near.peer);
	} else {
		candidates->far = bits->far;
	}
}

/* Packets without ports have them 0, which no rule can list. */
static __always_inline void match_fields(const struct rule_set *set, __u32 half, const struct flow_key *key,
					 struct candidates *candidates)
{
	__u32 src_port = bpf_ntohs(key->src_port), dst_port = bpf_ntohs(key->dst_port), protocol = key->protocol;
	const struct rule_bits *src_bits, *dst_bits, *protocol_bits;
	void *protocols, *ports;

	candidates->fields = set->rules;
	protocols = bpf_map_lookup_elem(MAP(rule_protocols), &half);
	protocol_bits = protocols ? bpf_map_lookup_elem(protocols, &protocol) : NULL;
	if (protocol_bits)
		keep_bits(&candidates->fields, protocol_bits);
	ports = bpf_map_lookup_elem(MAP(rule_ports), &half);
	src_bits = ports ? bpf_map_lookup_elem(ports, &src_port) : NULL;
	dst_bits = ports ? bpf_map_lookup_elem(ports, &dst_port) : NULL;
	if (src_bits && dst_bits) {
		struct rule_bits either = *src_bits;

		either.of[BLACKLIST] |= dst_bits->of[BLACKLIST];
		either.of[WHITELIST] |= dst_bits->of[WHITELIST];
		keep_bits(&candidates->fields, &either);
	}
}

/* The rules of one list that hold: the described end sends, or it receives. */
static __always_inline __u64 holding(const struct rule_set *set, const struct candidates *candidates, const int list,
				     const __u32 direction)
{
	__u64 near_to_far = candidates->near.described.of[list] & candidates->far.peer.of[list];
	__u64 far_to_near = candidates->far.described.of[list] & candidates->near.peer.of[list];

	if (direction == FROM_POD) {
		near_to_far &= set->egress.of[list];
		far_to_near &= set->ingress.of[list];
	} else {
		near_to_far &= set->ingress.of[list];
		far_to_near &= set->egress.of[list];
	}
	return (near_to_far | far_to_near) & candidates->fields.of[list];
}

/*
 * The index of the lowest bit of what is not 0. By arithmetic: BPF has no instruction for it, and each branch costs the
 * verifier.
 */
static __always_inline __u32 lowest(__u64 bits)
{
	return __builtin_popcountll((bits & -bits) - 1);
}

/* An enum rule_verdict. */
static __always_inline __u32 judge(const struct rule_set *set, const struct flow_key *key, const __u32 direction)
{
	const bool sent = direction == FROM_POD;
	struct candidates candidates;
	__u32 half = set->half;
	__u64 blacklisted;

	if (!match_interface(set, half, key->ifindex, &candidates))
		return UNJUDGED; /* user space judges, once it knows */
	match_address(set, half, sent ? key->src_address : key->dst_address, true, &candidates);
	match_address(set, half, sent ? key->dst_address : key->src_address, false, &candidates);
	match_fields(set, half, key, &candidates);

	blacklisted = holding(set, &candidates, BLACKLIST, direction);
	if (blacklisted)
		return FIRST_CAUSE + lowest(blacklisted);
	if (set->rules.of[WHITELIST] && !holding(set, &candidates, WHITELIST, direction))
		return NOT_LISTED;
	return MEASURED;
}

/* As judge, but a filtered flow is judged once. It has no entry among the flows, so its verdict is kept apart. */
static __always_inline __u32 verdict_of(const struct rule_set *set, const struct flow_key *key, const __u32 direction)
{
	const struct known_verdict *known = bpf_map_lookup_elem(MAP(known_verdicts), key);
	struct known_verdict fresh = {.generation = set->generation, .direction = direction};
	__u32 verdict;

	if (known && known->generation == set->generation && known->direction == direction)
		return known->verdict;
	verdict = judge(set, key, direction);
	if (verdict != MEASURED && verdict != UNJUDGED) {
		fresh.verdict = verdict;
		bpf_map_update_elem(MAP(known_verdicts), key, &fresh, BPF_ANY);
	}
	return verdict;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Adding a packet to its flow in the direction's active map, and to the ledger of its interface. */
#ifndef PODWIRE_COUNT_BPF_H
#define PODWIRE_COUNT_BPF_H

#include "maps.bpf.h"
#include "parse.bpf.h"
#include "wire.bpf.h"

#ifdef PODWIRE_COARSE_CLOCK
#define now_mono_ns bpf_ktime_get_coarse_ns /* Linux 5.11, commit d05512618056; half the price */
#else
#define now_mono_ns bpf_ktime_get_ns
#endif

static __always_inline void add_traffic(struct traffic *total, const struct traffic *traffic)
{
	total->packets += traffic->packets;
	total->bytes += traffic->bytes;
}

static __always_inline void see(struct ledger *ledger, struct __sk_buff *skb, const struct wire_units *units)
{
	add_traffic(&ledger->seen, &units->traffic);
	ledger->buffers++;
	ledger->buffer_bytes += skb->len;
	if (skb->vlan_present)
		ledger->tagged_buffers++;
	if (units->estimated)
		add_traffic(&ledger->estimated, &units->traffic);
}

/*
 * By constant offsets: without CAP_PERFMON the verifier refuses to add a register that differs from path to path to
 * a map value's address. The empty statement keeps the compiler from making an index of them.
 */
static __always_inline void add_unsupported(struct ledger *ledger, int reason, const struct traffic *traffic)
{
#pragma unroll
	for (int each = 0; each < UNSUPPORTED_REASONS; each++) {
		struct traffic *cell = &ledger->unsupported[each];

		if (reason != each)
			continue;
		asm volatile("" : "+r"(cell));
		add_traffic(cell, traffic);
	}
}

static __always_inline void note_tcp_flags(struct flow_stats *stats, __u8 flags)
{
	if (!(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return;
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		stats->seen_syn = 1;
	if ((flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		stats->seen_syn_ack = 1;
	if (flags & TCP_FIN)
		stats->seen_fin = 1;
	if (flags & TCP_RST)
		stats->seen_rst = 1;
}

/* What was filtered: by interface in the ledger, by cause beside it. `verdict` is a cause. */
static __always_inline void filter(struct ledger *ledger, const struct rule_set *set, __u32 verdict,
				   const struct traffic *traffic)
{
	__u32 half = set->half, cause = verdict - FIRST_CAUSE;
	void *causes = bpf_map_lookup_elem(MAP(filtered_slots), &half);
	struct traffic *cell = causes ? bpf_map_lookup_elem(causes, &cause) : NULL;

	add_traffic(&ledger->filtered, traffic);
	if (cell)
		add_traffic(cell, traffic);
}

/*
 * `stats`: the flow's record, NULL where it has none yet. False: the map is full, nothing was added. Two CPUs may meet
 * on a flow's first packet: the one whose insert comes second finds the entry on its second look.
 */
static __always_inline bool count(void *flows, struct flow_stats *stats, const struct packet *packet,
				  const struct wire_units *units)
{
	if (!stats) {
		struct flow_stats first = {};

		first.packets = units->traffic.packets;
		first.bytes = units->traffic.bytes;
		first.first_mono_ns = first.last_mono_ns = now_mono_ns();
		first.generation = packet->generation;
		first.unjudged = packet->unjudged;
		first.estimated = units->estimated;
		note_tcp_flags(&first, packet->tcp_flags);
		if (!bpf_map_update_elem(flows, &packet->key, &first, BPF_NOEXIST))
			return true;
		stats = bpf_map_lookup_elem(flows, &packet->key);
		if (!stats)
			return false;
	}
	__sync_fetch_and_add(&stats->packets, units->traffic.packets);
	__sync_fetch_and_add(&stats->bytes, units->traffic.bytes);
	stats->last_mono_ns = now_mono_ns();
	if (stats->generation != packet->generation)
		stats->generation = packet->generation;
	if (packet->unjudged)
		stats->unjudged = 1;
	if (units->estimated)
		stats->estimated = 1;
	note_tcp_flags(stats, packet->tcp_flags);
	return true;
}

#endif

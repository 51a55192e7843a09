// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Podwire's program at the TC hooks of a pod's host veth: see, parse, match, count. It returns TC_ACT_UNSPEC
 * on every path (as TCX_NEXT: the next program decides) and never changes a buffer.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "maps.bpf.h"
#include "parse.bpf.h"
#include "wire.bpf.h"
#include "match.bpf.h"
#include "count.bpf.h"

static __always_inline int watch(struct __sk_buff *skb, const __u32 direction, const bool egress)
{
	struct ledger_key ledger_key = {.ifindex = skb->ifindex, .direction = direction};
	struct ledger *ledger = ledger_of(&ledger_key);
	struct packet *packet = fresh_packet();
	const struct rule_set *rules;
	struct wire_units units;
	struct flow_stats *stats;
	__u32 verdict = MEASURED;
	void *flows;
	int reason;

	if (!ledger || !packet) /* not one of ours: user space makes the ledger before it attaches */
		return TC_ACT_UNSPEC;
	reason = parse(skb, packet);
	units = measure(skb, packet, reason == PARSED, egress);
	see(ledger, skb, &units);
	if (reason != PARSED) {
		add_unsupported(ledger, reason, &units.traffic);
		return TC_ACT_UNSPEC;
	}
	flows = active_flow_map(direction);
	stats = flows ? bpf_map_lookup_elem(flows, &packet->key) : NULL;
	rules = active_rule_set();
	if (rules) {
		packet->generation = rules->generation;
		if (!stats || stats->generation != packet->generation)
			verdict = verdict_of(rules, &packet->key, direction);
	}
	packet->unjudged = verdict == UNJUDGED;
	if (verdict != MEASURED && verdict != UNJUDGED)
		filter(ledger, rules, verdict, &units.traffic);
	else if (!flows || !count(flows, stats, packet, &units))
		add_traffic(&ledger->overflowed, &units.traffic);
	return TC_ACT_UNSPEC;
}

/* The host end of a veth: what comes in was sent by the pod. */
SEC("tc")
int veth_ingress(struct __sk_buff *skb)
{
	return watch(skb, FROM_POD, false);
}

SEC("tc")
int veth_egress(struct __sk_buff *skb)
{
	return watch(skb, TO_POD, true);
}

/* An interface of the host itself: what comes in goes to the host's own pods and processes. */
SEC("tc")
int host_ingress(struct __sk_buff *skb)
{
	return watch(skb, TO_POD, false);
}

SEC("tc")
int host_egress(struct __sk_buff *skb)
{
	return watch(skb, FROM_POD, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

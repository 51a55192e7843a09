// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What an 802.1Q device does in a pod, on kernels that are built without one: VLAN 5 out, no tag in. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int push_tag(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 5) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int pop_tag(struct __sk_buff *skb)
{
	return bpf_skb_vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

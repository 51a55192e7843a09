/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a buffer is on the wire. A super-packet (GSO) leaves as `segments` frames, each with the
 * headers up to the innermost L4; a tag kept outside the frame's bytes goes out with each of them.
 */
#ifndef PODWIRE_WIRE_BPF_H
#define PODWIRE_WIRE_BPF_H

#include <linux/if_ether.h>

#include "parse.bpf.h"

#define VLAN_TAG_BYTES 4

enum tunnel_constant {
	VXLAN_FLAG_VNI = 0x08,		  /* RFC 7348 section 5 */
	GENEVE_VERSION = 0xc0,		  /* RFC 8926 section 3.4: high bits of the first byte, */
	GENEVE_OPTION_WORDS = 0x3f,	  /* low bits of it */
	GRE_CHECKSUM_KEY_SEQUENCE = 0xb0, /* RFC 2890: C, K, S: four bytes each */
};

struct wire_units {
	struct traffic traffic;
	bool estimated;
};

/* VXLAN, Geneve, GRE begin alike enough to be told apart. */
struct tunnel_header {
	__u8 first;
	__u8 second;
	__be16 protocol;
	__be32 rest;
};

/*
 * The headers from the frame's start to the end of the L4 header behind an inner IP header at `offset`. 0 unless
 * that is TCP or UDP of exactly the buffer's rest, as an inner super-packet is; what merely looks like a header
 * (datagrams of a tunnel in user space, sent by UDP_SEGMENT) ends earlier. A length of 0 is BIG TCP's.
 */
static __always_inline __u32 inner_header_bytes(struct __sk_buff *skb, __u32 offset)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;
	__u32 length, l4;
	__u8 protocol, doff;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return 0;
	if (ip.v4.version == 4) {
		protocol = ip.v4.protocol;
		length = bpf_ntohs(ip.v4.tot_len);
		l4 = offset + ip.v4.ihl * 4;
	} else if (ip.v4.version == 6) {
		protocol = ip.v6.nexthdr;
		length = bpf_ntohs(ip.v6.payload_len);
		length += length ? sizeof(ip.v6) : 0;
		l4 = offset + sizeof(ip.v6);
	} else {
		return 0;
	}
	if (length && offset + length != skb->len)
		return 0;
	if (protocol == IPPROTO_UDP)
		return l4 + sizeof(struct udphdr);
	if (protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, l4 + 12, &doff, 1))
		return 0;
	return l4 + (doff >> 4) * 4;
}

/*
 * Where the packet in a tunnel begins, and whether with an Ethernet header; 0: no tunnel that we know.
 * Over UDP: VXLAN or Geneve, told by what is inside, not by the port; or IP itself (FOU, bareudp).
 */
static __always_inline __u32 tunnel_payload(struct __sk_buff *skb, const struct packet *packet, bool *ethernet)
{
	__u32 offset = packet->header_bytes;
	struct tunnel_header header;

	*ethernet = false;
	if (packet->key.protocol == IPPROTO_IPIP || packet->key.protocol == IPPROTO_IPV6)
		return offset;
	if (bpf_skb_load_bytes(skb, offset, &header, sizeof(header)))
		return 0;
	*ethernet = header.protocol == bpf_htons(ETH_P_TEB);
	if (packet->key.protocol == IPPROTO_UDP) {
		if (*ethernet && !(header.first & GENEVE_VERSION))
			return offset + sizeof(header) + (header.first & GENEVE_OPTION_WORDS) * 4;
		*ethernet = header.first & VXLAN_FLAG_VNI;
		return *ethernet ? offset + sizeof(header) : offset;
	}
	if (packet->key.protocol == IPPROTO_GRE && !(header.first & ~GRE_CHECKSUM_KEY_SEQUENCE))
		return offset + 4 * (1 + !!(header.first & 0x80) + !!(header.first & 0x20) + !!(header.first & 0x10));
	return 0;
}

/* The headers that the segments of a super-packet in a tunnel repeat; 0: the tunnel's kind is unknown. */
static __always_inline __u32 tunnel_header_bytes(struct __sk_buff *skb, const struct packet *packet)
{
	struct ethhdr inner;
	bool ethernet;
	__u32 offset = tunnel_payload(skb, packet, &ethernet);

	if (!offset)
		return 0;
	if (ethernet) {
		if (bpf_skb_load_bytes(skb, offset, &inner, sizeof(inner)))
			return 0;
		if (inner.h_proto != bpf_htons(ETH_P_IP) && inner.h_proto != bpf_htons(ETH_P_IPV6))
			return 0;
		offset += sizeof(inner);
	}
	return inner_header_bytes(skb, offset);
}

/* Of a super-packet: gso_size is not 0. */
static __always_inline __u64 segments_of(struct __sk_buff *skb, __u32 header_bytes)
{
	__u32 size = skb->gso_size;

	if (skb->gso_segs)
		return skb->gso_segs;
	return skb->len > header_bytes ? (skb->len - header_bytes + size - 1) / size : 1;
}

/*
 * UDP whose segments do not add up: gso_size pieces of what follows the UDP header are not gso_segs,
 * so something else repeats its headers in there.
 */
static __always_inline bool udp_adds_up(struct __sk_buff *skb, __u32 header_bytes)
{
	__u32 size = skb->gso_size;

	return !skb->gso_segs || (skb->len - header_bytes + size - 1) / size == skb->gso_segs;
}

/* Neither TCP nor SCTP on its way in: the headers that repeat are a tunnel's, or UDP's own (UDP_SEGMENT). */
static __always_inline __u32 repeated_header_bytes(struct __sk_buff *skb, const struct packet *packet, bool parsed,
						   bool *estimated)
{
	__u32 inner = parsed ? tunnel_header_bytes(skb, packet) : 0;

	if (inner && inner <= skb->len)
		return inner;
	*estimated = !parsed || packet->key.protocol != IPPROTO_UDP || !udp_adds_up(skb, packet->header_bytes);
	return packet->header_bytes;
}

/*
 * `parsed`: the packet has a flow key, and its headers are known to be in the buffer. `egress`: the hook is on the
 * way out of the interface, where the stack has just computed the size on the wire of whatever is inside
 * (qdisc_pkt_len_init); on the way in that field is without meaning.
 */
static __always_inline struct wire_units measure(struct __sk_buff *skb, const struct packet *packet, bool parsed,
						 const bool egress)
{
	struct wire_units units = {.traffic = {.packets = 1, .bytes = skb->len}};

	if (skb->gso_size) {
		bool plain = parsed && (packet->key.protocol == IPPROTO_TCP || packet->key.protocol == IPPROTO_SCTP);
		__u32 header_bytes = packet->header_bytes;

		if (!plain && !egress)
			header_bytes = repeated_header_bytes(skb, packet, parsed, &units.estimated);
		units.traffic.packets = segments_of(skb, header_bytes);
		if (!plain && egress)
			units.traffic.bytes = skb->wire_len;
		else
			units.traffic.bytes += (units.traffic.packets - 1) * header_bytes -
					       units.traffic.packets * packet->unsent_bytes;
	}
	if (skb->vlan_present)
		units.traffic.bytes += units.traffic.packets * VLAN_TAG_BYTES;
	return units;
}

#endif

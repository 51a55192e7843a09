/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a buffer to a flow key. The fast path reads the common frame (untagged, no IP options, no
 * extension headers) at constant offsets; everything else goes through bpf_skb_load_bytes. Neither
 * needs CAP_PERFMON (no variable packet offset), and neither changes the buffer.
 */
#ifndef PODWIRE_PARSE_BPF_H
#define PODWIRE_PARSE_BPF_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

#define IPV4_FRAGMENT_OFFSET 0x1fff /* RFC 791: the rest of frag_off are flags */
#define IPV6_FRAGMENT_OFFSET 0xfff8 /* RFC 8200 section 4.5 */
#define JUMBO_OPTION 0xc2	    /* RFC 2675 section 2 */
#define TCP_MIN_WORDS 5		    /* RFC 9293 section 3.1 */

enum parse_result {
	PARSED = -1, /* a flow key; other values are enum unsupported_reason */
};

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

struct vlan_tag {
	__be16 tci;
	__be16 encapsulated_protocol;
};

struct sctp_header { /* RFC 9260 section 3.1 */
	__be16 source;
	__be16 dest;
	__be32 verification_tag;
	__be32 checksum;
};

/* How every IPv6 extension header begins (RFC 6564), and AH with another unit of length. */
struct extension_header {
	__u8 next_header;
	__u8 length;
	__u8 option; /* of hop-by-hop and destination headers */
	__u8 option_length;
};

struct fragment_header { /* RFC 8200 section 4.5 */
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 identification;
};

static __always_inline void set_ipv4(__u8 *mapped, __be32 address)
{
	__be32 prefix = bpf_htonl(0xffff);

	__builtin_memcpy(mapped + 8, &prefix, 4);
	__builtin_memcpy(mapped + 12, &address, 4);
}

/*
 * An IPv4-mapped address in an IPv6 header has no place on a wire, Linux drops it on arrival (5.4, commit
 * 6af1799aaf3f), and its flow key would be that of an IPv4 flow. `suspect_mapped` is the fast path's cheap half.
 */
static __always_inline bool suspect_mapped(const struct in6_addr *address)
{
	return address->s6_addr32[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_mapped(const struct in6_addr *address)
{
	return suspect_mapped(address) && !address->s6_addr32[0] && !address->s6_addr32[1];
}

/* The L4 header of a whole packet, at any offset. */
static __always_inline int load_l4(struct __sk_buff *skb, struct packet *packet)
{
	union {
		struct tcphdr tcp;
		struct udphdr udp;
		struct sctp_header sctp;
		__u8 bytes[20];
	} header;
	__u32 offset = packet->header_bytes;

	switch (packet->key.protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, offset, &header, sizeof(header.tcp)))
			return UNSUPPORTED_TRUNCATED;
		if (header.tcp.doff < TCP_MIN_WORDS)
			return UNSUPPORTED_MALFORMED;
		packet->header_bytes = offset + header.tcp.doff * 4;
		packet->tcp_flags = header.bytes[13];
		break;
	case IPPROTO_UDP:
		if (bpf_skb_load_bytes(skb, offset, &header, sizeof(header.udp)))
			return UNSUPPORTED_TRUNCATED;
		packet->header_bytes = offset + sizeof(header.udp);
		break;
	case IPPROTO_SCTP:
		if (bpf_skb_load_bytes(skb, offset, &header, sizeof(header.sctp)))
			return UNSUPPORTED_TRUNCATED;
		packet->header_bytes = offset + sizeof(header.sctp);
		break;
	default:
		return PARSED;
	}
	packet->key.src_port = header.udp.source;
	packet->key.dst_port = header.udp.dest;
	return PARSED;
}

static __always_inline int load_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, packet->header_bytes, &ip, sizeof(ip)))
		return UNSUPPORTED_TRUNCATED;
	if (ip.version != 4 || ip.ihl < 5)
		return UNSUPPORTED_MALFORMED;
	set_ipv4(packet->key.src_address, ip.saddr);
	set_ipv4(packet->key.dst_address, ip.daddr);
	packet->key.protocol = ip.protocol;
	packet->header_bytes += ip.ihl * 4;
	if (ip.frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)) {
		packet->key.kind = FLOW_LATER_FRAGMENT;
		return PARSED;
	}
	return load_l4(skb, packet);
}

static __always_inline int load_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	struct extension_header extension;
	struct fragment_header fragment;
	struct ipv6hdr ip;
	__u8 next_header;

	if (bpf_skb_load_bytes(skb, packet->header_bytes, &ip, sizeof(ip)))
		return UNSUPPORTED_TRUNCATED;
	if (ip.version != 6 || is_mapped(&ip.saddr) || is_mapped(&ip.daddr))
		return UNSUPPORTED_MALFORMED;
	__builtin_memcpy(packet->key.src_address, &ip.saddr, 16);
	__builtin_memcpy(packet->key.dst_address, &ip.daddr, 16);
	packet->header_bytes += sizeof(ip);
	next_header = ip.nexthdr;

	for (int i = 0; i <= EXTENSION_LIMIT; i++) {
		switch (next_header) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
		case IPPROTO_AH:
			if (i == EXTENSION_LIMIT)
				return UNSUPPORTED_EXTENSION_DEPTH;
			if (bpf_skb_load_bytes(skb, packet->header_bytes, &extension, sizeof(extension)))
				return UNSUPPORTED_TRUNCATED;
			/* A BIG TCP super-packet has a jumbo header until it is cut (Linux 5.19). */
			if (next_header == IPPROTO_HOPOPTS && !extension.length && extension.option == JUMBO_OPTION &&
			    skb->gso_size)
				packet->unsent_bytes = 8;
			/* AH counts words and not the first two (RFC 4302 section 2.2), the others
			 * eight bytes and not the first. */
			packet->header_bytes += next_header == IPPROTO_AH ? (extension.length + 2) * 4
									  : (extension.length + 1) * 8;
			next_header = extension.next_header;
			continue;
		case IPPROTO_FRAGMENT:
			if (i == EXTENSION_LIMIT)
				return UNSUPPORTED_EXTENSION_DEPTH;
			if (bpf_skb_load_bytes(skb, packet->header_bytes, &fragment, sizeof(fragment)))
				return UNSUPPORTED_TRUNCATED;
			packet->header_bytes += sizeof(fragment);
			next_header = fragment.next_header;
			if (fragment.offset & bpf_htons(IPV6_FRAGMENT_OFFSET)) {
				packet->key.protocol = next_header;
				packet->key.kind = FLOW_LATER_FRAGMENT;
				return PARSED;
			}
			continue;
		}
		break;
	}
	packet->key.protocol = next_header;
	return load_l4(skb, packet);
}

static __always_inline int parse_slow(struct __sk_buff *skb, struct packet *packet)
{
	struct vlan_tag tag;
	struct ethhdr eth;
	__be16 protocol;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return UNSUPPORTED_TRUNCATED;
	protocol = eth.h_proto;
	packet->header_bytes = sizeof(eth);

	for (int i = 0; i <= VLAN_LIMIT; i++) {
		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if (i == VLAN_LIMIT)
			return UNSUPPORTED_VLAN_DEPTH;
		if (bpf_skb_load_bytes(skb, packet->header_bytes, &tag, sizeof(tag)))
			return UNSUPPORTED_TRUNCATED;
		protocol = tag.encapsulated_protocol;
		packet->header_bytes += sizeof(tag);
	}

	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		return load_ipv4(skb, packet);
	case bpf_htons(ETH_P_IPV6):
		return load_ipv6(skb, packet);
	case bpf_htons(ETH_P_ARP):
		return UNSUPPORTED_ARP;
	}
	return UNSUPPORTED_NOT_IP;
}

/*
 * TCP and UDP behind an IP header that ends at the constant `offset`, which is in the linear part of
 * the buffer. False: take the slow path.
 */
static __always_inline bool read_l4(void *data, void *end, const __u32 offset, __u8 protocol, struct packet *packet)
{
	struct udphdr *udp = data + offset;
	struct tcphdr *tcp = data + offset;

	if (protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end || tcp->doff < TCP_MIN_WORDS)
			return false;
		packet->key.src_port = tcp->source;
		packet->key.dst_port = tcp->dest;
		packet->header_bytes = offset + tcp->doff * 4;
		packet->tcp_flags = ((__u8 *)tcp)[13];
	} else if (protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return false;
		packet->key.src_port = udp->source;
		packet->key.dst_port = udp->dest;
		packet->header_bytes = offset + sizeof(*udp);
	} else {
		return false;
	}
	packet->key.protocol = protocol;
	return true;
}

static __always_inline bool parse_fast(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if (data + sizeof(*eth) + sizeof(struct iphdr) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + sizeof(*eth);

		if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET) ||
		    !read_l4(data, end, sizeof(*eth) + sizeof(*ip), ip->protocol, packet))
			return false;
		set_ipv4(packet->key.src_address, ip->saddr);
		set_ipv4(packet->key.dst_address, ip->daddr);
		return true;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + sizeof(*eth);

		if ((void *)(ip + 1) > end || ip->version != 6 || suspect_mapped(&ip->saddr) ||
		    suspect_mapped(&ip->daddr) || !read_l4(data, end, sizeof(*eth) + sizeof(*ip), ip->nexthdr, packet))
			return false;
		__builtin_memcpy(packet->key.src_address, &ip->saddr, 16);
		__builtin_memcpy(packet->key.dst_address, &ip->daddr, 16);
		return true;
	}
	return false;
}

/* Fills *packet, which comes zeroed. PARSED, or enum unsupported_reason. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	int reason = PARSED;

	packet->key.ifindex = skb->ifindex;
	if (!parse_fast(skb, packet))
		reason = parse_slow(skb, packet);
	if (reason == PARSED && packet->header_bytes > skb->len) /* options or an extension header cut short */
		return UNSUPPORTED_TRUNCATED;
	return reason;
}

#endif

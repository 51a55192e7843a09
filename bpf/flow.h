/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layout that the kernel program and user space share: keys, values, enums.
 *
 * Written once, here. agent/podwire_agent/layout.py is generated from the BTF of these types
 * (make generate), and the sizes are checked again against the kernel's maps at load.
 *
 * Units: bytes and packets are wire units (a super-packet counts its segments and every
 * segment's headers and tag); buffers and buffer bytes are what the interface's own counters see.
 * Times are CLOCK_MONOTONIC nanoseconds. Every value is a multiple of 8 bytes (the kernel rounds
 * per-CPU values up to that).
 */
#ifndef PODWIRE_FLOW_H
#define PODWIRE_FLOW_H

#include <linux/types.h>

/* The pod's direction: ingress at the host end of a veth is FROM_POD. Also the slot in flow_slots. */
enum flow_direction {
	FROM_POD = 0,
	TO_POD = 1,
};

/* What a flow key stands for. */
enum flow_kind {
	FLOW_WHOLE = 0,		 /* whole packets and first fragments: ports where the protocol has them */
	FLOW_LATER_FRAGMENT = 1, /* fragments after the first: no ports, one flow a pair and protocol */
};

/* Why a packet has no flow key. Index into ledger.unsupported. */
enum unsupported_reason {
	UNSUPPORTED_ARP = 0,		 /* ARP: addresses of its own, no IP */
	UNSUPPORTED_NOT_IP = 1,		 /* any other EtherType, and 802.3 frames with a length */
	UNSUPPORTED_TRUNCATED = 2,	 /* a header is cut short */
	UNSUPPORTED_MALFORMED = 3,	 /* an IP version, a header length or an address that cannot be */
	UNSUPPORTED_VLAN_DEPTH = 4,	 /* more than VLAN_LIMIT tags in the frame */
	UNSUPPORTED_EXTENSION_DEPTH = 5, /* more than EXTENSION_LIMIT IPv6 extension headers */
};

/* Sizes that user space needs too. */
enum flow_limit {
	FLOW_DIRECTIONS = 2,
	UNSUPPORTED_REASONS = 6,
	VLAN_LIMIT = 2,	     /* 802.1ad + 802.1Q: QinQ */
	EXTENSION_LIMIT = 6, /* RFC 8200 section 4.1 recommends at most 7 in total, one of them twice */
	INTERFACE_LIMIT = 2048,
	INTERFACE_NAME_BYTES = 16, /* IFNAMSIZ */
};

/* Who talks to whom over which interface, in one direction. No padding, every byte written. */
struct flow_key {
	__u8 src_address[16]; /* network order; IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2) */
	__u8 dst_address[16];
	__be16 src_port; /* 0 where the packet has no ports */
	__be16 dst_port;
	__u32 ifindex;
	__u8 protocol; /* IANA number; of the last header parsed for IPv6 */
	__u8 kind;     /* enum flow_kind */
	__u8 zero[2];
};

/* What was seen of a flow while one epoch's map was active. */
struct flow_stats {
	__u64 packets;	     /* segments on the wire */
	__u64 bytes;	     /* bytes on the wire, Ethernet header and tags included */
	__u64 first_mono_ns; /* a clock of jiffies resolution where the kernel has one (>= 5.11) */
	__u64 last_mono_ns;
	__u16 generation;  /* of the rule set that gave the verdict; 0 = no rules */
	__u8 verdict;	   /* 0 = measured */
	__u8 estimated;	   /* 1: some bytes are estimated (a tunnel of unknown kind) */
	__u8 seen_syn;	   /* 1: a SYN without ACK; one byte a flag, so that a store needs no lock */
	__u8 seen_syn_ack; /* 1: a SYN with ACK */
	__u8 seen_fin;
	__u8 seen_rst;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct ledger_key {
	__u32 ifindex;
	__u32 direction; /* enum flow_direction */
};

/*
 * The account of one interface and direction, a copy per CPU, never cleared by the program:
 * seen = counted + filtered + unsupported + overflowed. "counted" has no cell on purpose: it is
 * the sum of the flow records, so that the identity can fail.
 */
struct ledger {
	struct traffic seen;
	struct traffic filtered;
	struct traffic overflowed; /* the flow map was full */
	struct traffic unsupported[UNSUPPORTED_REASONS];
	struct traffic estimated; /* part of the above whose bytes are estimated, not a class */
	__u64 buffers;		  /* socket buffers: what the interface counts as a packet */
	__u64 buffer_bytes;
	__u64 tagged_buffers; /* of these, with a VLAN tag outside the frame's bytes */
};

struct interface_counters {
	__u64 buffers;
	__u64 bytes;
};

/*
 * What user space must remember of an attached interface: kept in a pinned map, since it has to
 * live exactly as long as the ledger. Index of the arrays: enum flow_direction.
 */
struct attachment {
	struct interface_counters before_low[FLOW_DIRECTIONS];	/* the interface's counters just before */
	struct interface_counters before_high[FLOW_DIRECTIONS]; /* and just after attach */
	__u64 attached_mono_ns;					/* 0: attach was begun, before_high is not known */
	__u64 host; /* 1: an interface of the host itself, whose ingress is TO_POD */
	char name[INTERFACE_NAME_BYTES];
};

_Static_assert(sizeof(struct flow_key) == 44, "flow_key has padding");
_Static_assert(sizeof(struct flow_stats) == 40, "flow_stats has padding");
_Static_assert(sizeof(struct ledger) % 8 == 0, "per-CPU values are multiples of 8 bytes");
_Static_assert(sizeof(struct attachment) % 8 == 0, "attachment has padding");

#endif

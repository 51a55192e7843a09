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

/* The two lists of rules: index into rule_bits.of. */
enum rule_list {
	BLACKLIST = 0,
	WHITELIST = 1,
};

/* What the rules say of a flow. Less FIRST_CAUSE an index into the counters of what was filtered. */
enum rule_verdict {
	MEASURED = 0,
	FIRST_CAUSE = 1, /* the blacklist's first rule; the others follow in their order */
	NOT_LISTED = 65, /* no rule of the whitelist holds */
	UNJUDGED = 66,	 /* measured for now: whose the near end is has yet to be found out */
};

/* Sizes that user space needs too. */
enum flow_limit {
	FLOW_DIRECTIONS = 2,
	UNSUPPORTED_REASONS = 6,
	VLAN_LIMIT = 2,	     /* 802.1ad + 802.1Q: QinQ */
	EXTENSION_LIMIT = 6, /* RFC 8200 section 4.1 recommends at most 7 in total, one of them twice */
	INTERFACE_LIMIT = 2048,
	INTERFACE_NAME_BYTES = 16, /* IFNAMSIZ */
	RULE_LISTS = 2,
	RULE_HALVES = 2,       /* one in use, one that is filled */
	RULE_LIMIT = 64,       /* rules in a list: a bit each */
	FILTER_CAUSES = 65,    /* each rule of the blacklist, and the whitelist */
	VERDICT_LIMIT = 16384, /* filtered flows whose verdict is remembered */
	RULE_NAME_BYTES = 64,
	PORTS = 65536,
	PROTOCOLS = 256,
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
	__u16 generation;  /* low bits of that of the rule set under which the flow is measured; 0 = no rules */
	__u8 unjudged;	   /* 1: some of it came before the rules could be asked: user space asks them later */
	__u8 estimated;	   /* 1: some bytes are estimated (a tunnel of unknown kind) */
	__u8 seen_syn;	   /* 1: a SYN without ACK; one byte a flag, so that a store needs no lock */
	__u8 seen_syn_ack; /* 1: a SYN with ACK */
	__u8 seen_fin;
	__u8 seen_rst;
};

/* What the program knows of the packet that it runs for. */
struct packet {
	struct flow_key key;
	__u32 header_bytes; /* Ethernet to L4: what every segment of a super-packet repeats */
	__u32 unsent_bytes; /* of these, what no segment has */
	__u16 generation;   /* low bits of that of the rules under which it is measured; 0 = no rules */
	__u8 tcp_flags;
	__u8 unjudged; /* 1: measured though the rules could not be asked */
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

/* A set of rules, as a bit each: bit n stands for rule n of the list. */
struct rule_bits {
	__u64 of[RULE_LISTS]; /* index: enum rule_list */
};

/* The rules that hold for one end of a flow, as the end that they describe and as its peer. */
struct end_bits {
	struct rule_bits described;
	struct rule_bits peer;
};

/* As flow_key has it. */
struct address {
	__u8 bytes[16];
};

/*
 * What the rules say of an address. An entry of a prefix holds the union of all prefixes that cover it, since a look-up
 * finds the longest one alone; one of an exact address too.
 */
struct address_bits {
	struct end_bits far;  /* by all that is known of the address: its networks, and whose it is */
	struct end_bits near; /* by its networks alone: whose the near end is, is told by the interface */
};

struct prefix_key {
	__u32 length; /* bits; of an IPv4 prefix those of the mapped address */
	struct address address;
};

/* What is to be known of a set of rules beside the maps of its half. Never changed once it is in use. */
struct rule_set {
	__u32 generation;	       /* of the set; the low 16 bits are never 0 */
	__u32 half;		       /* index of its maps in their slots */
	__u32 edition;		       /* of its names, which the counters are of */
	__u32 hold;		       /* 1: an interface without an entry may be any pod's: all of it is unjudged */
	struct rule_bits rules;	       /* those that there are */
	struct rule_bits egress;       /* the described end may be the sender */
	struct rule_bits ingress;      /* the described end may be the receiver */
	struct end_bits stranger;      /* of an interface without an entry */
	struct address_bits elsewhere; /* of an address without an entry */
};

/* That a flow is filtered, remembered for its next packet. Never changed in place. */
struct known_verdict {
	__u32 generation; /* of the rule set that gave it */
	__u8 verdict;	  /* enum rule_verdict */
	__u8 direction;	  /* enum flow_direction */
	__u8 zero[2];
};

/* Of a rule, kept beside the counters that it gives a meaning: user space only. Index as the counters'. */
struct rule_name {
	char name[RULE_NAME_BYTES];
};

_Static_assert(sizeof(struct flow_key) == 44, "flow_key has padding");
_Static_assert(sizeof(struct flow_stats) == 40, "flow_stats has padding");
_Static_assert(sizeof(struct packet) == 56, "packet has padding");
_Static_assert(sizeof(struct ledger) % 8 == 0, "per-CPU values are multiples of 8 bytes");
_Static_assert(sizeof(struct attachment) % 8 == 0, "attachment has padding");
_Static_assert(sizeof(struct rule_set) == 160, "rule_set has padding");
_Static_assert(sizeof(struct prefix_key) == 20, "prefix_key has padding");
_Static_assert(sizeof(struct known_verdict) == 8, "known_verdict has padding");
_Static_assert(NOT_LISTED - FIRST_CAUSE == RULE_LIMIT && FILTER_CAUSES == RULE_LIMIT + 1, "a cause has no counter");

#endif

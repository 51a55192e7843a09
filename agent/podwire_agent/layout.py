"""The structs and enums that the kernel program and user space share.

Generated from bpf/flow.h by make generate; do not edit. Meaning and units stand there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np


class FlowDirection(IntEnum):
    """enum flow_direction"""

    FROM_POD = 0
    TO_POD = 1


class FlowKind(IntEnum):
    """enum flow_kind"""

    FLOW_WHOLE = 0
    FLOW_LATER_FRAGMENT = 1


class UnsupportedReason(IntEnum):
    """enum unsupported_reason"""

    UNSUPPORTED_ARP = 0
    UNSUPPORTED_NOT_IP = 1
    UNSUPPORTED_TRUNCATED = 2
    UNSUPPORTED_MALFORMED = 3
    UNSUPPORTED_VLAN_DEPTH = 4
    UNSUPPORTED_EXTENSION_DEPTH = 5


class RuleList(IntEnum):
    """enum rule_list"""

    BLACKLIST = 0
    WHITELIST = 1


class RuleVerdict(IntEnum):
    """enum rule_verdict"""

    MEASURED = 0
    FIRST_CAUSE = 1
    NOT_LISTED = 65
    UNJUDGED = 66


class FlowLimit(IntEnum):
    """enum flow_limit"""

    FLOW_DIRECTIONS = 2
    UNSUPPORTED_REASONS = 6
    VLAN_LIMIT = 2
    EXTENSION_LIMIT = 6
    INTERFACE_LIMIT = 2048
    INTERFACE_NAME_BYTES = 16
    RULE_LISTS = 2
    RULE_HALVES = 2
    RULE_LIMIT = 64
    FILTER_CAUSES = 65
    VERDICT_LIMIT = 16384
    RULE_NAME_BYTES = 64
    PORTS = 65536
    PROTOCOLS = 256


FLOW_KEY: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["src_address", "dst_address", "src_port", "dst_port", "ifindex", "protocol", "kind", "zero"],
        "formats": [("u1", (16,)), ("u1", (16,)), ">u2", ">u2", "u4", "u1", "u1", ("u1", (2,))],
        "offsets": [0, 16, 32, 34, 36, 40, 41, 42],
        "itemsize": 44,
    }
)
"""struct flow_key"""

FLOW_STATS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": [
            "packets",
            "bytes",
            "first_mono_ns",
            "last_mono_ns",
            "generation",
            "unjudged",
            "estimated",
            "seen_syn",
            "seen_syn_ack",
            "seen_fin",
            "seen_rst",
        ],
        "formats": ["u8", "u8", "u8", "u8", "u2", "u1", "u1", "u1", "u1", "u1", "u1"],
        "offsets": [0, 8, 16, 24, 32, 34, 35, 36, 37, 38, 39],
        "itemsize": 40,
    }
)
"""struct flow_stats"""

PACKET: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["key", "header_bytes", "unsent_bytes", "generation", "tcp_flags", "unjudged"],
        "formats": [FLOW_KEY, "u4", "u4", "u2", "u1", "u1"],
        "offsets": [0, 44, 48, 52, 54, 55],
        "itemsize": 56,
    }
)
"""struct packet"""

TRAFFIC: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["packets", "bytes"],
        "formats": ["u8", "u8"],
        "offsets": [0, 8],
        "itemsize": 16,
    }
)
"""struct traffic"""

LEDGER_KEY: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["ifindex", "direction"],
        "formats": ["u4", "u4"],
        "offsets": [0, 4],
        "itemsize": 8,
    }
)
"""struct ledger_key"""

LEDGER: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": [
            "seen",
            "filtered",
            "overflowed",
            "unsupported",
            "estimated",
            "buffers",
            "buffer_bytes",
            "tagged_buffers",
        ],
        "formats": [TRAFFIC, TRAFFIC, TRAFFIC, (TRAFFIC, (6,)), TRAFFIC, "u8", "u8", "u8"],
        "offsets": [0, 16, 32, 48, 144, 160, 168, 176],
        "itemsize": 184,
    }
)
"""struct ledger"""

INTERFACE_COUNTERS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["buffers", "bytes"],
        "formats": ["u8", "u8"],
        "offsets": [0, 8],
        "itemsize": 16,
    }
)
"""struct interface_counters"""

ATTACHMENT: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["before_low", "before_high", "attached_mono_ns", "host", "name"],
        "formats": [(INTERFACE_COUNTERS, (2,)), (INTERFACE_COUNTERS, (2,)), "u8", "u8", "S16"],
        "offsets": [0, 32, 64, 72, 80],
        "itemsize": 96,
    }
)
"""struct attachment"""

RULE_BITS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["of"],
        "formats": [("u8", (2,))],
        "offsets": [0],
        "itemsize": 16,
    }
)
"""struct rule_bits"""

END_BITS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["described", "peer"],
        "formats": [RULE_BITS, RULE_BITS],
        "offsets": [0, 16],
        "itemsize": 32,
    }
)
"""struct end_bits"""

ADDRESS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["bytes"],
        "formats": [("u1", (16,))],
        "offsets": [0],
        "itemsize": 16,
    }
)
"""struct address"""

ADDRESS_BITS: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["far", "near"],
        "formats": [END_BITS, END_BITS],
        "offsets": [0, 32],
        "itemsize": 64,
    }
)
"""struct address_bits"""

PREFIX_KEY: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["length", "address"],
        "formats": ["u4", ADDRESS],
        "offsets": [0, 4],
        "itemsize": 20,
    }
)
"""struct prefix_key"""

RULE_SET: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["generation", "half", "edition", "hold", "rules", "egress", "ingress", "stranger", "elsewhere"],
        "formats": ["u4", "u4", "u4", "u4", RULE_BITS, RULE_BITS, RULE_BITS, END_BITS, ADDRESS_BITS],
        "offsets": [0, 4, 8, 12, 16, 32, 48, 64, 96],
        "itemsize": 160,
    }
)
"""struct rule_set"""

KNOWN_VERDICT: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["generation", "verdict", "direction", "zero"],
        "formats": ["u4", "u1", "u1", ("u1", (2,))],
        "offsets": [0, 4, 5, 6],
        "itemsize": 8,
    }
)
"""struct known_verdict"""

RULE_NAME: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": ["name"],
        "formats": ["S64"],
        "offsets": [0],
        "itemsize": 64,
    }
)
"""struct rule_name"""


FINGERPRINT: Final = "bde097d885f63949"
"""Of the names, values, offsets and sizes: maps pinned under another one hold other bytes."""

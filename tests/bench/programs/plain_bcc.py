"""What a first BCC script for the task looks like, for comparison: C in a string, BCC in the process for its life.

    python3 plain_bcc.py INTERFACE PINS

Counts packets and bytes of IPv4 flows at both hooks of an interface and reads them once a second. Says "ready" on
standard output once attached. Nothing of what Podwire promises: no IPv6, no super-packets, entries lost while read.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bcc import BPF, lib

TEXT = """
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/udp.h>

struct key {
    u32 source, destination;
    u16 source_port, destination_port;
    u32 protocol;
};

struct value {
    u64 packets, bytes;
};

BPF_HASH(flows, struct key, struct value, 65536);

static int count(struct __sk_buff *skb) {
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = data + sizeof(*eth);
    struct udphdr *ports = data + sizeof(*eth) + sizeof(*ip);
    struct value zero = {}, *value;
    struct key key = {};

    if ((void *)(ports + 1) > end || eth->h_proto != __builtin_bswap16(ETH_P_IP))
        return TC_ACT_UNSPEC;
    key.source = ip->saddr;
    key.destination = ip->daddr;
    key.protocol = ip->protocol;
    if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
        key.source_port = ports->source;
        key.destination_port = ports->dest;
    }
    value = flows.lookup_or_try_init(&key, &zero);
    if (value) {
        __sync_fetch_and_add(&value->packets, 1);
        __sync_fetch_and_add(&value->bytes, skb->len);
    }
    return TC_ACT_UNSPEC;
}

int on_ingress(struct __sk_buff *skb) { return count(skb); }
int on_egress(struct __sk_buff *skb) { return count(skb); }
"""


def main() -> None:
    """Attach, then read until ended."""
    interface, pins = sys.argv[1], Path(sys.argv[2])
    bpf = BPF(text=TEXT)
    subprocess.run(["tc", "qdisc", "add", "dev", interface, "clsact"], check=True)
    for hook in ("ingress", "egress"):
        program = bpf.load_func(f"on_{hook}", BPF.SCHED_CLS)
        lib.bpf_obj_pin(program.fd, str(pins / hook).encode())
        pinned = ["bpf", "direct-action", "object-pinned", str(pins / hook)]
        subprocess.run(["tc", "filter", "add", "dev", interface, hook, *pinned], check=True)
    print("ready", flush=True)
    packets = 0
    while True:
        time.sleep(1)
        for key, value in bpf["flows"].items():
            packets += value.packets
            del bpf["flows"][key]


if __name__ == "__main__":
    main()

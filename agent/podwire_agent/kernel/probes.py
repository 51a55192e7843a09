"""What this kernel offers, found out by asking it, never by its version."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import resource
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from podwire_agent.errors import KernelError
from podwire_agent.kernel.libbpf import library
from podwire_agent.kernel.objects import Map, MapType

PROG_TYPE_SCHED_CLS = 3


class Helper(IntEnum):
    """enum bpf_func_id, those asked for."""

    SKB_LOAD_BYTES = 26
    KTIME_GET_COARSE_NS = 160


@dataclass(frozen=True, slots=True)
class Feature:
    """The verdict on one feature."""

    name: str
    present: bool
    needed: bool
    meaning: str
    """What it is for, or what happens without it."""
    since: str
    """The release that brought it."""


def raise_memlock() -> None:
    """Kernels before 5.11 (commit d5299b67dd59) charge maps to RLIMIT_MEMLOCK.

    Where raising it is not allowed, newer ones do not need it and older ones will say so when a map is made.
    """
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return


def features() -> list[Feature]:
    """Ask for every feature in use. KernelError where bpf(2) itself is refused."""
    return [
        Feature("bpf_skb_load_bytes", _helper(Helper.SKB_LOAD_BYTES), True, "reads headers of any packet", "4.5"),
        Feature("batched map reads", _batches(), True, "drains the flows", "5.6"),
        Feature("maps of differing size in one slot", _inner_sizes(), True, "maxFlows can change", "5.10"),
        Feature("coarse clock", coarse_clock(), False, "without it a packet costs some 15 ns more", "5.11"),
        Feature("TCX links", tcx(), False, "without them a foreign program can hide ours", "6.6"),
    ]


def require(found: list[Feature]) -> None:
    """KernelError naming what is missing of the needed features, with the release that has it."""
    missing = [f"{feature.name} (Linux {feature.since})" for feature in found if feature.needed and not feature.present]
    if missing:
        release = os.uname().release
        raise KernelError(f"this kernel ({release}) lacks {', '.join(missing)}; Podwire runs on Linux 5.10 and newer")


def coarse_clock() -> bool:
    """bpf_ktime_get_coarse_ns is there."""
    return _helper(Helper.KTIME_GET_COARSE_NS)


def _helper(helper: Helper) -> bool:
    code = int(library().libbpf_probe_bpf_helper(PROG_TYPE_SCHED_CLS, helper, None))
    if code in (-errno.EPERM, -errno.EACCES):
        raise KernelError(
            "asking the kernel for its features: not permitted; the agent needs CAP_BPF and CAP_NET_ADMIN"
        )
    return code == 1


def _batches() -> bool:
    word = np.dtype("u4")
    with Map.create("probe", word, word, 1) as probe:
        try:
            probe.read()
        except KernelError:
            return False
    return True


def _inner_sizes() -> bool:
    word = np.dtype("u4")
    with (
        Map.create("probe", word, word, 1) as small,
        Map.create("probe", word, word, 2) as large,
        Map.create("probe", word, word, 1, MapType.ARRAY_OF_MAPS, inner=small) as outer,
    ):
        try:
            outer.update(np.zeros(1, word), np.array([large.fd], word))
        except KernelError:
            return False
    return True


TCX_INGRESS = 46
"""enum bpf_attach_type."""

LOOPBACK = 1
"""An interface of every network namespace."""


def tcx() -> bool:
    """TCX links can be made (Linux 6.6, commit e420bed02507): their hook point can be queried."""
    flags, count = ct.c_uint32(), ct.c_uint32()
    code = int(library().bpf_prog_query(LOOPBACK, TCX_INGRESS, 0, ct.byref(flags), None, ct.byref(count)))
    return code >= 0

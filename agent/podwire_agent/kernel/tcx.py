"""Programs at an interface's TC hooks by TCX links (Linux 6.6, commit e420bed02507), which run before clsact's.

A link lives as long as its pin. When its interface goes, the pin stays and holds a link to nothing.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
from pathlib import Path

import numpy as np

from podwire_agent.errors import AttachError, InterfaceGone
from podwire_agent.kernel.libbpf import LinkCreateOpts, LinkInfo, library
from podwire_agent.kernel.objects import Descriptor, open_pin
from podwire_agent.model import HookPoint, IfIndex

ATTACH_TYPES = {HookPoint.INGRESS: 46, HookPoint.EGRESS: 47}
"""enum bpf_attach_type."""

_BPF_F_BEFORE = 1 << 3
"""With no other program named: before all of them."""

_PROGRAMS_LIMIT = 64
"""BPF_MPROG_MAX: the kernel takes no more at one hook."""


class TcxLink(Descriptor):
    """A program at one hook of an interface."""

    @classmethod
    def create(cls, index: IfIndex, hook: HookPoint, program_fd: int) -> TcxLink:
        """Attach before every other TCX program. InterfaceGone, AttachError."""
        opts = LinkCreateOpts(sz=ct.sizeof(LinkCreateOpts), flags=_BPF_F_BEFORE)
        fd = library().bpf_link_create(program_fd, index, ATTACH_TYPES[hook], ct.byref(opts))
        if fd < 0:
            raise _error(f"attaching by TCX to {hook} of interface {index}", -fd)
        return cls(fd)

    @classmethod
    def pinned(cls, path: Path) -> TcxLink | None:
        """The link pinned at `path`; None where there is no such pin. StateError."""
        return cls(open_pin(path)) if path.exists() else None

    def update(self, program_fd: int) -> None:
        """Put another program in this one's place; no packet passes in between. AttachError."""
        code = library().bpf_link_update(self.fd, program_fd, None)
        if code < 0:
            raise _error("replacing the program of a TCX link", -code)

    def detach(self) -> None:
        """End it now: the program is off the hook on return, whoever else holds the link."""
        library().bpf_link_detach(self.fd)

    def info(self) -> LinkInfo:
        """What the kernel says of it; its ifindex is 0 once the interface is gone. AttachError."""
        info = LinkInfo()
        size = ct.c_uint32(ct.sizeof(info))
        code = library().bpf_obj_get_info_by_fd(self.fd, ct.byref(info), ct.byref(size))
        if code < 0:
            raise _error("asking for a TCX link's info", -code)
        return info

    def is_defunct(self) -> bool:
        """Its interface is gone."""
        return not self.info().ifindex


def programs(index: IfIndex, hook: HookPoint) -> list[int] | None:
    """The ids of the TCX programs at a hook, in their order; None: this kernel has no TCX.

    InterfaceGone, AttachError.
    """
    ids = np.zeros(_PROGRAMS_LIMIT, np.uint32)
    flags, count = ct.c_uint32(), ct.c_uint32(len(ids))
    code = library().bpf_prog_query(index, ATTACH_TYPES[hook], 0, ct.byref(flags), ids.ctypes.data, ct.byref(count))
    if code == -errno.EINVAL:
        return None
    if code < 0:
        raise _error(f"asking for the TCX programs at {hook} of interface {index}", -code)
    return [int(each) for each in ids[: count.value]]


def _error(attempt: str, number: int) -> AttachError:
    if number == errno.ENODEV:
        return InterfaceGone(f"{attempt}: {os.strerror(number)}")
    advice = "; the agent needs CAP_BPF and CAP_NET_ADMIN" if number in (errno.EPERM, errno.EACCES) else ""
    return AttachError(f"{attempt}: {os.strerror(number)}{advice}")

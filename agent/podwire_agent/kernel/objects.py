"""BPF maps, pins and programs: one class a kernel object, one method a call, errors converted to KernelError."""

from __future__ import annotations

import ctypes as ct
import errno
import os
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.errors import KernelError, StateError
from podwire_agent.kernel.libbpf import MapCreateOpts, MapInfo, ProgInfo, TestRunOpts, library
from podwire_agent.model import Records

ENOTSUPP = 524
"""The kernel's own: this kind of map does not do it."""

BATCH = 8192
"""Entries read in one call: more gain nothing, and the kernel does not yield within a call."""


class MapType(IntEnum):
    """enum bpf_map_type, those in use."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12

    @property
    def per_cpu(self) -> bool:
        """A value has a copy for each CPU."""
        return self in {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY}


class MapFlag(IntEnum):
    """Flags of a map's making."""

    NONE = 0
    NO_PREALLOC = 1


class UpdateFlag(IntEnum):
    """Flags of an element's update."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2


def possible_cpus() -> int:
    """CPUs that a per-CPU value has a copy for: the possible ones, not those online."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").rsplit("-", 1)[-1]
    return int(last) + 1


def sum_over_cpus(values: Records) -> Records:
    """Entries of a per-CPU map whose values are uint64 throughout, shape (n, cpus) -> shape (n,), exact modulo 2^64."""
    words = np.ascontiguousarray(values).view(np.uint64).reshape(*values.shape, values.dtype.itemsize // 8)
    summed: Records = words.sum(axis=1, dtype=np.uint64).view(values.dtype).reshape(len(values))
    return summed


def refuse(attempt: str, code: int) -> NoReturn:
    """Raise the KernelError of a libbpf result: `code` is a negative errno."""
    number = -code if code < 0 else ct.get_errno()
    advice = ""
    if number in (errno.EPERM, errno.EACCES):
        advice = "; the agent needs CAP_BPF and CAP_NET_ADMIN"
    elif number == errno.ENOMEM:
        advice = "; lower spec.maxFlows or raise the memory limit"
    raise KernelError(f"{attempt}: {os.strerror(number)}{advice}")


class Descriptor:
    """Owns a file descriptor of a BPF object."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pin(self, path: Path) -> None:
        """Keep the object alive under a path of bpffs; its name must not hold a dot. KernelError."""
        code = library().bpf_obj_pin(self.fd, str(path).encode())
        if code < 0:
            refuse(f"pinning {path}", code)


def open_pin(path: Path) -> int:
    """A new descriptor of a pinned object. StateError where there is none."""
    fd: int = library().bpf_obj_get(str(path).encode())
    if fd < 0:
        raise StateError(
            f"opening the pin {path}: {os.strerror(-fd)}; remove the leftovers with `podwire-agent cleanup`"
        )
    return fd


class Map(Descriptor):
    """A map whose keys and values have numpy dtypes. The sizes are checked against the kernel's."""

    def __init__(self, fd: int, key: np.dtype[Any], value: np.dtype[Any], *, per_cpu: bool = False) -> None:
        super().__init__(fd)
        self.key, self.value = key, value
        self.copies = possible_cpus() if per_cpu else 1
        """Values an entry has: the possible CPUs of a per-CPU map, else 1."""
        info = self.info()
        if (info.key_size, info.value_size) != (key.itemsize, value.itemsize):
            self.close()
            raise StateError(
                f"map {info.name.decode()}: keys and values of {info.key_size} and {info.value_size} bytes, "
                f"this agent's layout has {key.itemsize} and {value.itemsize}; "
                "the object file or the pins are of another version: rebuild, or run `podwire-agent cleanup`"
            )

    @classmethod
    def create(
        cls,
        name: str,
        key: np.dtype[Any],
        value: np.dtype[Any],
        entries: int,
        kind: MapType = MapType.HASH,
        inner: Map | None = None,
        flags: MapFlag = MapFlag.NONE,
    ) -> Self:
        """A new map of `entries` entries; `inner` gives the shape of the maps in a map of maps. KernelError."""
        opts = MapCreateOpts(sz=ct.sizeof(MapCreateOpts), inner_map_fd=inner.fd if inner else 0, map_flags=flags)
        fd = library().bpf_map_create(kind, name.encode()[:15], key.itemsize, value.itemsize, entries, ct.byref(opts))
        if fd < 0:
            refuse(f"making the map {name} of {entries} entries", fd)
        return cls(fd, key, value, per_cpu=kind.per_cpu)

    @classmethod
    def pinned(cls, path: Path, key: np.dtype[Any], value: np.dtype[Any], *, per_cpu: bool = False) -> Self:
        """The map pinned at `path`. StateError."""
        return cls(open_pin(path), key, value, per_cpu=per_cpu)

    def info(self) -> MapInfo:
        """What the kernel says of the map."""
        info = MapInfo()
        size = ct.c_uint32(ct.sizeof(info))
        code = library().bpf_obj_get_info_by_fd(self.fd, ct.byref(info), ct.byref(size))
        if code < 0:
            refuse("asking for a map's info", code)
        return info

    def lookup(self, key: Records) -> Records | None:
        """The value of one key, shape (copies,); None where there is none. KernelError."""
        value = np.zeros(self.copies, self.value)
        key = np.ascontiguousarray(key, self.key)
        code = library().bpf_map_lookup_elem(self.fd, key.ctypes.data, value.ctypes.data)
        if code == -errno.ENOENT:
            return None
        if code < 0:
            refuse("reading a map's entry", code)
        return value

    def update(self, key: Records | NDArray[np.uint32], value: Records, flag: UpdateFlag = UpdateFlag.ANY) -> bool:
        """Put one entry; `value` has shape (copies,). False where `flag` forbids it. KernelError."""
        key, value = np.ascontiguousarray(key, self.key), np.ascontiguousarray(value, self.value)
        code = library().bpf_map_update_elem(self.fd, key.ctypes.data, value.ctypes.data, flag)
        if code in (-errno.EEXIST, -errno.ENOENT):
            return False
        if code < 0:
            refuse("writing a map's entry", code)
        return True

    def fill(self, keys: Records | NDArray[np.uint32], values: Records) -> None:
        """Put many entries, each new or not: keys and values of shape (n,). KernelError."""
        keys, values = np.ascontiguousarray(keys, self.key), np.ascontiguousarray(values, self.value)
        count = ct.c_uint32(len(keys))
        code = (
            library().bpf_map_update_batch(self.fd, keys.ctypes.data, values.ctypes.data, ct.byref(count), None)
            if len(keys)
            else 0
        )
        if code == -ENOTSUPP:  # an LPM trie before Linux 5.16 (commit f56387c534cf)
            for each in range(len(keys)):
                self.update(keys[each : each + 1], values[each : each + 1])
        elif code < 0:
            refuse(f"writing {len(keys)} entries into a map", code)

    def delete(self, key: Records) -> bool:
        """Drop one entry; False where there was none. KernelError."""
        key = np.ascontiguousarray(key, self.key)
        code = library().bpf_map_delete_elem(self.fd, key.ctypes.data)
        if code == -errno.ENOENT:
            return False
        if code < 0:
            refuse("dropping a map's entry", code)
        return True

    def read(self) -> tuple[Records, Records]:
        """All entries: keys of shape (n,), values of shape (n, copies). Each once where nobody writes. KernelError."""
        entries = self.info().max_entries
        # The kernel writes where the entries stay; what is not filled takes no memory.
        keys, values = np.empty(entries, self.key), np.empty((entries, self.copies), self.value)
        token_bytes = max(4, self.key.itemsize)
        cursor, following = ct.create_string_buffer(token_bytes), ct.create_string_buffer(token_bytes)
        filled, batch = 0, BATCH
        while True:
            count = ct.c_uint32(min(batch, entries - filled))
            code = library().bpf_map_lookup_batch(
                self.fd,
                cursor if filled else None,
                following,
                keys.ctypes.data + filled * keys.strides[0],
                values.ctypes.data + filled * values.strides[0],
                ct.byref(count),
                None,
            )
            if code < 0 and code not in (-errno.ENOENT, -errno.ENOSPC):
                refuse("reading a map", code)
            filled += count.value
            if code == -errno.ENOENT:
                return keys[:filled], values[:filled]
            if count.value and filled < entries:
                cursor, following = following, cursor
            elif not count.value and batch < entries - filled:
                batch = entries  # one bucket holds more than a batch
            else:
                filled = 0  # entries came while others went: once more from the beginning


class Program(Descriptor):
    """A loaded program."""

    def id(self) -> int:
        """The kernel's id of it, as TC filters and links tell it."""
        info = ProgInfo()
        size = ct.c_uint32(ct.sizeof(info))
        code = library().bpf_obj_get_info_by_fd(self.fd, ct.byref(info), ct.byref(size))
        if code < 0:
            refuse("asking for a program's info", code)
        return int(info.id)

    def test_run(self, frame: bytes, context: bytes = b"", repeat: int = 1) -> tuple[int, bytes, int]:
        """Run it on `frame` (BPF_PROG_TEST_RUN): its return code, the frame after, ns a run.

        `context` is a struct __sk_buff of which the kernel takes some fields (gso_segs, gso_size, wire_len...).
        """
        data_in, data_out = ct.create_string_buffer(frame, len(frame)), ct.create_string_buffer(len(frame) + 256)
        ctx_in = ct.create_string_buffer(context, len(context))
        opts = TestRunOpts(
            sz=ct.sizeof(TestRunOpts),
            data_in=ct.addressof(data_in),
            data_out=ct.addressof(data_out),
            data_size_in=len(frame),
            data_size_out=len(data_out),
            ctx_in=ct.addressof(ctx_in) if context else None,
            ctx_size_in=len(context),
            repeat=repeat,
        )
        code = library().bpf_prog_test_run_opts(self.fd, ct.byref(opts))
        if code < 0:
            refuse("running a program on a test frame", code)
        retval = ct.c_int32(opts.retval).value
        return retval, data_out.raw[: opts.data_size_out], int(opts.duration)

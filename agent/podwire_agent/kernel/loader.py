"""From an object file to a loaded datapath: programs and maps by name. The default loader is libbpf's."""

from __future__ import annotations

import ctypes as ct
import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from podwire_agent.errors import LoadError
from podwire_agent.kernel.libbpf import ObjectOpenOpts, library
from podwire_agent.kernel.objects import Program

LOG_BYTES = 1 << 18
SHAPE = "_shape"
"""How the maps of the object end that only describe others."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs and map descriptors by their names in the C sources. Owns every descriptor."""

    programs: Mapping[str, Program]
    maps: Mapping[str, int]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self.programs.values():
            program.close()


class Loader(Protocol):
    """Brings the programs into the kernel."""

    name: str

    def load(self, reuse: Mapping[str, int]) -> Loaded:
        """Load the programs; a map named in `reuse` is that descriptor instead of a new one.

        The descriptors of `maps` are the caller's to close. LoadError, with the verifier's last words.
        """


class LibbpfLoader:
    """Loads an object that was compiled ahead, by libbpf."""

    name = "libbpf"

    def __init__(self, object_path: Path) -> None:
        self._path = object_path

    def load(self, reuse: Mapping[str, int]) -> Loaded:
        """See Loader."""
        lib = library()
        log = ct.create_string_buffer(LOG_BYTES)
        opts = ObjectOpenOpts(
            sz=ct.sizeof(ObjectOpenOpts), kernel_log_buf=ct.cast(log, ct.c_char_p), kernel_log_size=LOG_BYTES
        )
        handle = lib.bpf_object__open_file(str(self._path).encode(), ct.byref(opts))
        if not handle:
            raise LoadError(
                f"reading the object file {self._path}: {os.strerror(ct.get_errno())}; build it with `make build`"
            )
        with ExitStack() as stack:
            stack.callback(lib.bpf_object__close, handle)
            maps = dict(_each(lib.bpf_object__next_map, lib.bpf_map__name, handle))
            for name, map_handle in maps.items():
                if name.endswith(SHAPE):
                    lib.bpf_map__set_autocreate(map_handle, False)
                elif name in reuse and (code := lib.bpf_map__reuse_fd(map_handle, reuse[name])) < 0:
                    raise LoadError(f"using the pinned map {name}: {os.strerror(-code)}")
            code = lib.bpf_object__load(handle)
            if code < 0:
                raise LoadError(_refusal(self._path, -code, log.value.decode(errors="replace")))
            programs = _each(lib.bpf_object__next_program, lib.bpf_program__name, handle)
            return Loaded(
                programs={name: Program(os.dup(lib.bpf_program__fd(program))) for name, program in programs},
                maps={name: os.dup(lib.bpf_map__fd(item)) for name, item in maps.items() if not name.endswith(SHAPE)},
            )


def _each(step: ct._NamedFuncPointer, name: ct._NamedFuncPointer, handle: int) -> list[tuple[str, int]]:
    found = []
    item = step(handle, None)
    while item:
        found.append((name(item).decode(), item))
        item = step(handle, item)
    return found


def _refusal(path: Path, number: int, log: str) -> str:
    attempt = f"loading {path.name} into the kernel: {os.strerror(number)}"
    if number in (errno.EPERM, errno.EACCES) and not log.strip():
        return f"{attempt}; the agent needs CAP_BPF and CAP_NET_ADMIN (or root)"
    return f"{attempt}; the verifier's last words: {last_words(log)}"


def last_words(log: str) -> str:
    """The last line of a verifier's log that says why."""
    words = [line for line in log.splitlines() if line.strip() and not line.startswith(("processed", "verification"))]
    return words[-1].strip() if words else "none"

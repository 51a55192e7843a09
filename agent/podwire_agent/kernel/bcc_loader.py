"""The second loader: BCC compiles the C sources at run time, in a child that hands the programs over and ends.

BCC maps LLVM, some 100 MB, and keeps it for the life of a process; so that process is another one, and a short one.
The maps are made here: the child gets their descriptors, compiles them into the programs, and sends the programs'
descriptors back on a socket. Nothing is pinned on the way, so nothing is left wherever either of the two dies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from podwire_agent.errors import LoadError
from podwire_agent.kernel.loader import Loaded, last_words
from podwire_agent.kernel.objects import Map, MapFlag, MapType, Program
from podwire_agent.kernel.rule_maps import RULE_MAPS, make_slots
from podwire_agent.layout import (
    ADDRESS,
    ADDRESS_BITS,
    ATTACHMENT,
    END_BITS,
    FLOW_KEY,
    FLOW_STATS,
    KNOWN_VERDICT,
    LEDGER,
    LEDGER_KEY,
    PACKET,
    PREFIX_KEY,
    RULE_BITS,
    RULE_SET,
    TRAFFIC,
    FlowLimit,
)

CHILD = Path(__file__).with_name("bcc_child.py")
CHILD_S = 60.0
"""How long the child may take; it takes about one second."""

INTERPRETERS = (sys.executable, "/usr/bin/python3")
"""Who may have BCC: this Python, and the distribution's, for which it is packaged."""

INSTALL = "install the distribution's package (Debian, Ubuntu: `apt install python3-bpfcc`)"
WORD = np.dtype("u4")


def _flow_slots() -> Map:
    with Map.create("flow_map_shape", FLOW_KEY, FLOW_STATS, 1) as shape:
        return Map.create("flow_slots", WORD, WORD, FlowLimit.FLOW_DIRECTIONS, MapType.ARRAY_OF_MAPS, inner=shape)


MAPS: Mapping[str, Callable[[], Map]] = {
    "flow_slots": _flow_slots,
    "ledgers": lambda: Map.create(
        "ledgers",
        LEDGER_KEY,
        LEDGER,
        FlowLimit.INTERFACE_LIMIT * FlowLimit.FLOW_DIRECTIONS,
        MapType.PERCPU_HASH,
        flags=MapFlag.NO_PREALLOC,
    ),
    "attachments": lambda: Map.create(
        "attachments", WORD, ATTACHMENT, FlowLimit.INTERFACE_LIMIT, flags=MapFlag.NO_PREALLOC
    ),
    "known_verdicts": lambda: Map.create(
        "known_verdicts", FLOW_KEY, KNOWN_VERDICT, FlowLimit.VERDICT_LIMIT, MapType.LRU_HASH
    ),
    "packets": lambda: Map.create("packets", WORD, PACKET, 1, MapType.PERCPU_ARRAY),
    **{name: partial(make_slots, name) for name in RULE_MAPS},
}
"""The maps of bpf/maps.bpf.h, whose declarations only libbpf reads."""


SIZES = {
    "flow_key": FLOW_KEY,
    "flow_stats": FLOW_STATS,
    "ledger_key": LEDGER_KEY,
    "ledger": LEDGER,
    "address": ADDRESS,
    "address_bits": ADDRESS_BITS,
    "end_bits": END_BITS,
    "known_verdict": KNOWN_VERDICT,
    "packet": PACKET,
    "prefix_key": PREFIX_KEY,
    "rule_bits": RULE_BITS,
    "rule_set": RULE_SET,
    "traffic": TRAFFIC,
}
"""The maps are made from layout.py, the programs from flow.h: the compiler checks that they are of one version."""


class BccLoader:
    """Loads the C sources by the BCC of the first of `interpreters` that has one."""

    name = "bcc"

    def __init__(self, tree: Path, *, coarse_clock: bool, interpreters: Sequence[str] = INTERPRETERS) -> None:
        """`tree` is what tools/bcc_sources.py makes; `coarse_clock`: the kernel has bpf_ktime_get_coarse_ns."""
        self._tree = tree = tree.resolve()  # BCC compiles in a directory of its choice
        self._options = [f"-I{tree / 'src'}", "-DPODWIRE_BCC", *(["-DPODWIRE_COARSE_CLOCK"] if coarse_clock else [])]
        # Otherwise a call of what does not exist is compiled, into a jump out of the program.
        self._options += ["-Werror=implicit-function-declaration"]
        # BCC declares no helper's argument const.
        self._options += ["-Wno-incompatible-pointer-types-discards-qualifiers"]
        self._options += [f"-DPODWIRE_SIZE_{name}={dtype.itemsize}" for name, dtype in SIZES.items()]
        self._interpreters = tuple(dict.fromkeys(interpreters))

    def load(self, reuse: Mapping[str, int]) -> Loaded:
        """See Loader."""
        source = self._tree / "src" / "flow.bpf.c"
        if not source.exists():
            raise LoadError(f"loading with BCC: no C sources in {source.parent}; collect them with `make build`")
        with ExitStack() as stack:
            made = {name: stack.enter_context(make()).fd for name, make in MAPS.items() if name not in reuse}
            maps = {name: made.get(name, reuse.get(name, -1)) for name in MAPS}
            reasons = []
            for interpreter in self._interpreters:
                answer, descriptors = self._ask(interpreter, source, maps)
                if "programs" in answer:
                    break
                reasons.append(_why_not(interpreter, answer))
            else:
                raise LoadError(f"loading with BCC: {'; '.join(reasons)}; {INSTALL}")
            programs = {name: Program(fd) for name, fd in zip(answer["programs"], descriptors, strict=True)}
            return Loaded(programs, {name: os.dup(fd) for name, fd in maps.items()})

    def _ask(self, interpreter: str, source: Path, maps: Mapping[str, int]) -> tuple[dict[str, Any], list[int]]:
        """The child's message and its descriptors. LoadError where BCC is there and fails."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            with there:
                options = [*self._options, *(f"-DPODWIRE_FD_{name}={fd}" for name, fd in maps.items())]
                request = {"source": str(source), "options": options, "answer": there.fileno()}
                try:
                    child = subprocess.Popen(
                        [interpreter, "-I", str(CHILD), json.dumps(request)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        pass_fds=[there.fileno(), *maps.values()],
                        env={"BCC_KERNEL_SOURCE": str(self._tree), "PATH": "/usr/bin:/bin"},
                        text=True,
                        errors="replace",
                    )
                except OSError as error:
                    return {"failure": "absent", "detail": error.strerror}, []
            with child:
                try:
                    _, said = child.communicate(timeout=CHILD_S)
                except subprocess.TimeoutExpired as late:
                    child.kill()
                    raise LoadError(f"loading with BCC: {interpreter} did not end within {CHILD_S:g} s") from late
            message, descriptors, _, _ = socket.recv_fds(here, 1 << 16, 16, socket.MSG_CMSG_CLOEXEC)
        if message:
            return json.loads(message), descriptors
        raise LoadError(_refusal(interpreter, child.returncode, said))


def _why_not(interpreter: str, answer: Mapping[str, str]) -> str:
    if answer["failure"] == "namesake":
        return (
            f"{answer['detail']} is not the BPF Compiler Collection but a namesake "
            "(that of PyPI is crystallography: uninstall it)"
        )
    return f"{interpreter} has no BCC ({answer['detail']})"


def _refusal(interpreter: str, code: int, said: str) -> str:
    """What to tell of a child that ended without an answer and `said` something on standard error."""
    if code < 0:
        return f"loading with BCC: the child of {interpreter} was ended by {signal.Signals(-code).name}"
    log, _, traceback = said.partition("Traceback")
    version = next((line for line in log.splitlines() if line.startswith("BCC ")), "BCC")
    if found := re.search(r"(\w[\w.]*):(\d+):\d+: (?:fatal )?error: (.*)", log):
        name = "flow.bpf.c" if found[1] == "main.c" else found[1]  # BCC compiles a copy in memory
        return f"compiling {name}, line {found[2]}, with {version}: {found[3]}"
    problem = traceback.strip().rpartition("\n")[2].removeprefix("Exception: ")
    if "privileges" in problem:
        return f"loading with {version}: {problem}; the agent needs CAP_BPF and CAP_NET_ADMIN (or root)"
    return f"loading with {version}: {problem or f'exit code {code}'}; the last words: {last_words(log)}"

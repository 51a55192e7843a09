"""Frames at full rate over many flows: the sender of tests/kernel/programs, compiled once."""

from __future__ import annotations

import atexit
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.kernel.netns import Namespace
from tests.kernel.running import Flow

SOURCE = Path(__file__).parent / "programs" / "sender.c"

NOBODY = "02:02:02:02:02:02"
"""A MAC address that no interface has."""


@cache
def sender() -> Path:
    """The compiled sender."""
    directory = Path(mkdtemp(prefix="pw-sender-"))
    atexit.register(shutil.rmtree, directory)
    target = directory / "sender"
    subprocess.run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", "-o", target, SOURCE], check=True)
    return target


@contextmanager
def sending(
    pod: Namespace, frames: int, flows: int, senders: int = 2, rate: int = 0, destination: str = NOBODY
) -> Iterator[list[subprocess.Popen[str]]]:
    """`senders` processes that share `frames`, each over `flows` flows of its own; ended at the latest on exit.

    `rate` in frames a second, 0: as fast as they can. `destination`: a MAC address.
    """
    shares = [str(frames // senders), str(flows)]
    processes = [
        subprocess.Popen(
            pod.command(str(sender()), "eth0", *shares, str(number), str(rate // senders), destination),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(senders)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def sent_by(frames: int, flows: int, senders: int = 2) -> Counter[Flow]:
    """What the senders send, flow by flow."""
    each = frames // senders
    return Counter(
        {
            (f"10.{number}.{flow // 256}.{flow % 256}", "10.200.0.1", 4000, 5000, "UDP"): each // flows
            + (flow < each % flows)
            for number in range(senders)
            for flow in range(flows)
        }
    )

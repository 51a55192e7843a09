"""Measures what each way of loading costs, and writes the table of docs/reference/loaders.md.

    make bench-loaders

As root. The same agent with either loader, and a plain BCC script, on a host with two pods and no traffic.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from podwire_agent.settings import LoaderName
from tests.bench.attach_time import Attachments
from tests.kernel.loaders import why_no_bcc
from tests.kernel.netns import Host, remove_leftovers
from tests.kernel.running import Node, environment, node
from tools import images
from tools.bcc_sources import TREE
from tools.compile_bpf import ROOT

PAGE = ROOT / "docs" / "reference" / "loaders.md"
BEGIN, END = "<!-- begin: make bench-loaders -->\n", "<!-- end -->\n"
RUNS = 5
QUIET_S = 10.0
"""How long a process is left alone before its memory and CPU are read."""

PLAIN = Path(__file__).parent / "programs" / "plain_bcc.py"
DISTRIBUTIONS_PYTHON = "/usr/bin/python3"
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """One start of one process."""

    attach_s: float
    """From the start to the first filter."""
    start_cpu_s: float
    """CPU until all was attached, children included."""
    quiet_cpu_s: float
    """CPU of QUIET_S thereafter."""
    peak_mb: float
    steady_mb: float


@dataclass(frozen=True, slots=True)
class Column:
    """One way of loading."""

    heading: str
    runs: list[Run]
    child: dict[str, float]
    """What load_once tells; empty where it is not one of ours."""
    package: str
    image: str

    def cells(self) -> list[str]:
        """In the order of ROWS."""
        return [
            *self._of(lambda run: run.attach_s, "s"),
            f"{self.child['load_s']:.2f} s" if self.child else "-",
            *self._of(lambda run: run.start_cpu_s, "s"),
            *self._of(lambda run: run.quiet_cpu_s, "s"),
            *self._of(lambda run: run.peak_mb, "MB"),
            *self._of(lambda run: run.steady_mb, "MB"),
            f"{self.child['child_peak_mb']:.0f} MB" if self.child.get("child_peak_mb") else "-",
            *_packages(self.package),
            self.image,
        ]

    def _of(self, value: Callable[[Run], float], unit: str) -> list[str]:
        return [f"{median(map(value, self.runs)):.{2 if unit == 's' else 0}f} {unit}"]


ROWS = (
    "start of the process to the first attach",
    "of it, loading the programs",
    "CPU until attached, children included",
    f"CPU of the next {QUIET_S:g} s, without traffic",
    "peak memory of the process",
    f"its memory after {QUIET_S:g} s",
    "peak memory of the child that loads",
    "Debian packages beyond Python's",
    "their installed size",
    "image",
)


def main() -> int:
    """Measure all and rewrite the page's table; the exit code."""
    if os.geteuid():
        print("make bench-loaders makes network namespaces and loads programs: run it as root", file=sys.stderr)
        return 1
    if reason := why_no_bcc():
        print(f"make bench-loaders: {reason}", file=sys.stderr)
        return 1
    remove_leftovers()
    columns = [
        Column("libbpf", _runs(_agent(LoaderName.LIBBPF)), _load_once(LoaderName.LIBBPF), "libbpf1", _image("agent")),
        Column("bcc", _runs(_agent(LoaderName.BCC)), _load_once(LoaderName.BCC), "python3-bpfcc", _image("agent-bcc")),
        Column("plain BCC script", _runs(_plain), {}, "python3-bpfcc", "-"),
    ]
    text = _table(columns)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    print(text)
    return 0


def _table(columns: list[Column]) -> str:
    cells = [column.cells() for column in columns]
    lines = [["", *(column.heading for column in columns)], ["---", *("---:" for _ in columns)]]
    lines += [[name, *values] for name, *values in zip(ROWS, *cells, strict=True)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    python = platform.python_version()
    kernel, cpus = platform.release().partition("-")[0], os.cpu_count()
    return (
        f"{table}\n\nMedians of {RUNS} runs of `make bench-loaders` on Linux {kernel}, {cpus} CPUs, "
        f"Python {python}, BCC {_version('python3-bpfcc')}, libbpf {_version('libbpf1')}.\n"
    )


def _agent(name: LoaderName) -> Callable[[Node], subprocess.Popen[bytes]]:
    def start(place: Node) -> subprocess.Popen[bytes]:
        return place.start("--loader", name).process

    return start


def _plain(place: Node) -> subprocess.Popen[bytes]:
    command = place.namespace.command(DISTRIBUTIONS_PYTHON, "-I", str(PLAIN), "veth1", str(place.bpffs))
    # The kernel's headers are not there on most machines; those that Podwire carries do for the script too.
    variables = {**environment(), "BCC_KERNEL_SOURCE": str(TREE)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables)


def _runs(start: Callable[[Node], subprocess.Popen[bytes]]) -> list[Run]:
    found = []
    with Host(pods=2) as host:
        for number in range(RUNS):
            print(f"run {number + 1} of {RUNS}", file=sys.stderr)
            with node(host.namespace) as place, Attachments(host.namespace) as attachments:
                begun = time.monotonic()
                with _ended(start(place)) as process:
                    attached = attachments.first()
                    attachments.first()
                    start_cpu = _cpu_s(process.pid)
                    _left_alone(process)
                    memory = _memory_mb(process.pid)
                    quiet_cpu = _cpu_s(process.pid) - start_cpu
                    found.append(Run(attached - begun, start_cpu, quiet_cpu, memory["VmHWM"], memory["VmRSS"]))
            for pod in host.pods:
                # The plain script leaves its qdisc with the filters.
                subprocess.run(
                    host.namespace.command("tc", "qdisc", "del", "dev", pod.interface, "clsact"),
                    check=False,
                    stderr=subprocess.DEVNULL,
                )
    return found


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _left_alone(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(QUIET_S)
    except subprocess.TimeoutExpired:
        return
    raise RuntimeError(f"{process.args!r} ended with {code}")


def _cpu_s(pid: int) -> float:
    """Seconds of CPU since the start, of the process and of children that have ended (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_A_SECOND


def _memory_mb(pid: int) -> dict[str, float]:
    """VmHWM and VmRSS, in 10^6 bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 / 1e6 for words in lines if words[0] in {"VmHWM:", "VmRSS:"}}


def _load_once(name: LoaderName) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.load_once", name]
    answers = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, env=environment()).stdout)
        for _ in range(RUNS)
    ]
    return {key: median(answer[key] for answer in answers) for key in answers[0]}


def _image(target: str) -> str:
    try:
        size = images._size(images.image(target))
    except FileNotFoundError:
        size = 0
    return f"{size / 1e6:.0f} MB" if size else "`make images`"


def _version(package: str) -> str:
    return _dpkg("${Version}", package)


def _packages(package: str) -> list[str]:
    """How many packages it needs that Python does not, and their size."""
    needed = _closure(package) - _closure("python3")
    size = sum(int(_dpkg("${Installed-Size}", each)) for each in needed) * 1024
    return [f"{len(needed)} ({package} and what it needs)", f"{size / 1e6:.1f} MB"]


def _closure(package: str) -> set[str]:
    """The package and all that it depends on, of what is installed."""
    found: set[str] = set()
    wanted = [package]
    while wanted:
        name = wanted.pop()
        if name in found or not _dpkg("${Status}", name).endswith(" installed"):
            continue
        found.add(name)
        depends = _dpkg("${Depends}, ${Pre-Depends}", name)
        wanted += [
            part.split()[0].partition(":")[0] for each in depends.split(",") for part in each.split("|") if part.strip()
        ]
    return found


def _dpkg(field: str, package: str) -> str:
    command = ["dpkg-query", "--show", f"--showformat={field}\\n", package]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    return asked.stdout.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())

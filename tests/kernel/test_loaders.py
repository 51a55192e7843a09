"""Two loaders, one datapath: the same maps, the same bytes, and each takes over from the other."""

from __future__ import annotations

import itertools
import random
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from podwire_agent.errors import LoadError
from podwire_agent.kernel import bcc_loader
from podwire_agent.kernel.bcc_loader import MAPS, BccLoader
from podwire_agent.kernel.datapath import PROGRAMS
from podwire_agent.kernel.loader import LibbpfLoader, Loader
from podwire_agent.kernel.objects import Map, sum_over_cpus
from podwire_agent.layout import FlowDirection
from podwire_agent.settings import LoaderName
from tests.kernel.agent_fixtures import nothing_is_left
from tests.kernel.datapath_fixtures import LOOPBACK, Datapath, SkBuff
from tests.kernel.loaders import why_no_bcc
from tests.kernel.netns import Host
from tests.kernel.packet_table import CASES
from tests.kernel.running import Agent, Node, node
from tests.kernel.sending import sending, sent_by
from tests.kernel.superpacket_table import SUPER_CASES

DISTRIBUTIONS_PYTHON = "/usr/bin/python3"


@pytest.fixture(autouse=True)
def _bcc_is_here() -> None:
    if reason := why_no_bcc():
        pytest.skip(reason)


@pytest.fixture
def libbpf(objects: dict[str, Path]) -> Loader:
    return LibbpfLoader(objects["flow.bpf.o"])


@pytest.fixture
def bcc(bcc_tree: Path) -> Loader:
    return BccLoader(bcc_tree, coarse_clock=True)


def made_by(loader: Loader) -> tuple[set[str], dict[str, list[object]]]:
    """The names of the programs; of each map what the kernel says of it."""
    maps: dict[str, list[object]] = {}
    with loader.load({}) as loaded:
        for name, fd in loaded.maps.items():
            with MAPS[name]() as like, Map(fd, like.key, like.value) as made:
                it = made.info()
                maps[name] = [it.type, it.key_size, it.value_size, it.max_entries, it.map_flags, it.name]
        return set(loaded.programs), maps


def test_both_make_the_same_programs_and_maps(libbpf: Loader, bcc: Loader) -> None:
    programs, maps = made_by(bcc)
    assert (programs, maps) == made_by(libbpf)
    assert programs == {name for name, _ in PROGRAMS.values()}
    assert maps.keys() == MAPS.keys()


def test_the_same_frames_leave_the_same_bytes_whoever_loaded(libbpf: Loader, bcc: Loader) -> None:
    left = [bytes_left_by(loader) for loader in (libbpf, bcc)]
    assert left[0] == left[1]
    assert len(left[0]) == 2 * len(FlowDirection)


def bytes_left_by(loader: Loader) -> list[bytes]:
    """The flow records, but for their times, and the ledgers, after the packet tables and what chance makes of them."""
    chance = random.Random(8)
    left = []
    with Datapath(loader.load({})) as datapath:
        datapath.watch(LOOPBACK)
        frames = [(case.frame, 0, 0) for case in CASES]
        frames += [(case.frame, case.gso_size, case.gso_segs) for case in SUPER_CASES]
        for frame, size, segments in list(frames):
            mutated = bytearray(frame)
            for _ in range(8):
                mutated[chance.randrange(12, len(frame))] = chance.randrange(256)
                frames.append((bytes(mutated), size, segments))
        for name, _ in PROGRAMS.values():
            for frame, size, segments in frames:
                context = bytes(SkBuff(gso_size=size, gso_segs=segments, wire_len=len(frame)))
                datapath.programs[name].test_run(frame, context)
        for direction in FlowDirection:
            keys, values = datapath.flows(LOOPBACK, direction)
            for name in ("first_mono_ns", "last_mono_ns"):
                values[name] = 0
            assert datapath.account(LOOPBACK, direction).buffers == 2 * len(frames)
            left.append(
                b"".join(sorted(key.tobytes() + value.tobytes() for key, value in zip(keys, values, strict=True)))
            )
        keys, cells = datapath.ledgers.read()
        order = np.argsort(keys["direction"])
        left += [each.tobytes() for each in sum_over_cpus(cells)[order]]
    return left


def ready(agent: Agent, name: LoaderName) -> None:
    agent.ready()
    assert f"loader {name}" in agent.errors.read_text()


def test_an_agent_keeps_nothing_of_bcc_and_ends_without_a_trace(place: Node, host: Host) -> None:
    agent = place.start("--loader", "bcc")
    ready(agent, LoaderName.BCC)
    process = Path("/proc") / str(agent.process.pid)
    mapped = (process / "maps").read_text()
    assert "libbpf" in mapped
    assert "libbcc" not in mapped
    assert "LLVM" not in mapped
    assert (process / "task" / process.name / "children").read_text() == ""
    host.settle()
    assert agent.stop() == 0, agent.errors.read_text()


def test_agents_killed_and_restarted_by_either_loader_in_turn_lose_and_double_nothing() -> None:
    frames, flows = 400_000, 2_000
    with Host(pods=1) as host:
        (pod,) = host.pods
        host.namespace.run("ip", "link", "set", "veth1", "nomaster")
        host.settle()
        names = itertools.cycle((LoaderName.BCC, LoaderName.LIBBPF))
        with node(host.namespace) as place:
            name = next(names)
            agent = place.start("--loader", name)
            ready(agent, name)
            with sending(pod.namespace, frames, flows, rate=60_000) as senders:
                for _ in range(4):
                    agent.kill()
                    name = next(names)
                    agent = place.start("--loader", name)
                    ready(agent, name)
                for each in senders:
                    each.wait()
            host.settle()
            assert agent.stop() == 0, agent.errors.read_text()
            place.identity_holds()
            assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)
            nothing_is_left(place)


def interpreter(directory: Path, script: str) -> str:
    """A program in the place of a Python."""
    path = directory / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


ADDED = "int added(struct __sk_buff *skb)\n{{\n\treturn {};\n}}\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(
            f'exec {DISTRIBUTIONS_PYTHON} -S "$@"',
            r"python3 has no BCC \(No module named 'bcc'\); .*apt install python3-bpfcc",
            id="a Python without it",
        ),
        pytest.param(
            f'shift; PYTHONPATH=$(dirname "$0") exec {DISTRIBUTIONS_PYTHON} "$@"',
            r"/bcc\.py is not the BPF Compiler Collection but a namesake .*uninstall it.*apt install python3-bpfcc",
            id="the namesake",
        ),
        pytest.param("kill -SEGV $$", "the child of .*/python3 was ended by SIGSEGV", id="a child that dies"),
        pytest.param("exit 3", "loading with BCC: exit code 3", id="a child that gives up"),
        pytest.param("exec sleep 60", r"python3 did not end within 0\.2 s", id="a child that hangs"),
    ],
)
def test_without_bcc_the_error_says_what_is_wrong_and_what_to_do(
    script: str, expected: str, bcc_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(bcc_loader, "CHILD_S", 0.2)
    (tmp_path / "bcc.py").write_text("class Lattice:\n    pass\n")
    loader = BccLoader(bcc_tree, coarse_clock=True, interpreters=[interpreter(tmp_path, script)])
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(LoadError, match=expected):
        loader.load({})
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_the_next_interpreter_is_asked_where_the_first_has_no_bcc(bcc_tree: Path) -> None:
    loader = BccLoader(bcc_tree, coarse_clock=True, interpreters=["/nonexistent/python3", *bcc_loader.INTERPRETERS])
    with Datapath(loader.load({})) as datapath:
        assert len(datapath.programs) == len(PROGRAMS)


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        pytest.param(
            *("include/bpf/bpf_helpers.h", "__clang_major__ < 11", "__clang_major__ < 99"),
            r'compiling bpf_helpers\.h, line \d+, with BCC [\d.]+: "the LLVM of this BCC is too old: .*"',
            id="an LLVM that is too old",
        ),
        pytest.param(
            *("src/flow.bpf.c", "char LICENSE", ADDED.format("undefined(skb)") + "char LICENSE"),
            r"compiling flow\.bpf\.c, line \d+, with BCC [\d.]+: implicit declaration of function 'undefined'",
            id="a function that does not exist",
        ),
        pytest.param(
            *("src/flow.bpf.c", "char LICENSE", ADDED.format("*(int *)(long)skb->len") + "char LICENSE"),
            "loading with BCC .*: Permission denied; the last words: R1 invalid mem access 'scalar'",
            id="a program that the verifier refuses",
        ),
        pytest.param(
            *("src/flow.h", "struct ledger {", "struct ledger {\n__u64 other;"),
            r"compiling maps\.bpf\.h, line \d+, with BCC [\d.]+: .*struct ledger is of another size in layout\.py",
            id="sources with another layout",
        ),
    ],
)
def test_what_cannot_be_compiled_or_loaded_is_told_by_its_first_error(
    file: str, old: str, new: str, expected: str, bcc_tree: Path, tmp_path: Path
) -> None:
    tree = shutil.copytree(bcc_tree, tmp_path / "tree")
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    with pytest.raises(LoadError, match=expected):
        BccLoader(tree, coarse_clock=True).load({})


def test_without_the_sources_the_error_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no C sources in .*; collect them with `make build`"):
        BccLoader(tmp_path, coarse_clock=True).load({})

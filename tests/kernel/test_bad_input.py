"""What the agent says when it cannot run: few lines that name the culprit and what to do, and nothing left attached."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podwire_agent.settings import default_objects
from tests.kernel.agent_fixtures import nothing_is_left, send, started
from tests.kernel.netns import Host
from tests.kernel.running import ROOT, Node, environment, node
from tools.compile_bpf import compile_object

BAD_INPUT, FAILED = 2, 1
MAP_LOOKUP_BATCH = 24
"""enum bpf_cmd; Linux 5.6."""


def run(place: Node, *options: str, before: tuple[str, ...] = (), file: Path | None = None) -> tuple[int, list[str]]:
    """The exit code of an agent that should not start, and its words on stderr: without what it logs."""
    command = place.namespace.command(
        *(*before, sys.executable, "-m", "podwire_agent.cli", "run", "--file", str(file or place.resource)),
        *(*place.places, "--listen", "off", "--duration", "1s", "--log-level", "warning", *options),
    )
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=30)
    return done.returncode, done.stderr.splitlines()


def refused(code: int, outcome: tuple[int, list[str]], *words: str) -> None:
    """At most three lines that say `words`."""
    returned, lines = outcome
    text = "\n".join(lines)
    assert returned == code, text
    assert 1 <= len(lines) <= 3, text
    assert lines[0].startswith("podwire-agent: "), text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"pollingPerod": "1s"}, ["spec.pollingPerod", "did you mean pollingPeriod?"], id="unknown field"),
        pytest.param(
            {"externalNetworks": [{"name": "office", "cidrs": ["10.0.0.0/33"]}]},
            ["spec.externalNetworks[0].cidrs[0]", '"10.0.0.0/33"'],
            id="a bad CIDR",
        ),
        pytest.param(
            {"interfaces": {"vethPattern": "cali("}}, ["spec.interfaces.vethPattern", "cali("], id="a bad regex"
        ),
        pytest.param({"pollingPeriod": "1"}, ["spec.pollingPeriod"], id="a duration without a unit"),
        pytest.param({"sinks": [{"name": "p", "prometheus": {}}]}, ["spec.sinks[0].prometheus"], id="a sink not built"),
        pytest.param(
            {"blacklist": [{"name": "a", "services": ["b/c"]}]}, ["spec.blacklist[0].services"], id="a rule, not built"
        ),
    ],
)
def test_a_file_that_cannot_be_run(spec: dict[str, Any], words: list[str], bare_place: Node) -> None:
    bare_place.spec = spec
    refused(BAD_INPUT, run(bare_place), *words)
    nothing_is_left(bare_place)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, ["No such file"], id="missing"),
        pytest.param(b"", ["holds no resource"], id="empty"),
        pytest.param(b"spec: [", ["given.yaml:1: is not YAML"], id="not YAML"),
        pytest.param(b"\xff\xfe\x00", [], id="not text"),
    ],
)
def test_a_file_that_cannot_be_read(content: bytes | None, words: list[str], bare_place: Node) -> None:
    path = bare_place.directory / "given.yaml"
    if content is not None:
        path.write_bytes(content)
    refused(BAD_INPUT, run(bare_place, file=path), "given.yaml", *words)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        pytest.param("-all", "lacks CAP_BPF and CAP_NET_ADMIN", id="none"),
        pytest.param("-all,+bpf", "lacks CAP_NET_ADMIN", id="BPF alone"),
        pytest.param("-all,+net_admin", "lacks CAP_BPF", id="NET_ADMIN alone"),
    ],
)
def test_missing_capabilities(kept: str, words: str, bare_place: Node) -> None:
    before = ("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}")
    refused(FAILED, run(bare_place, before=before), words, "run as root, or grant")
    nothing_is_left(bare_place)


def test_no_bpffs_and_no_right_to_mount_one(bare_place: Node) -> None:
    """In a mount namespace of its own, without what is mounted here."""
    kept = "-all,+bpf,+net_admin"
    without = 'umount -l /sys/fs/bpf; exec "$@"'
    before = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        without,
        "sh",
        "setpriv",
        f"--bounding-set={kept}",
        f"--inh-caps={kept}",
    )
    refused(
        FAILED,
        run(bare_place, "--bpffs", "/sys/fs/bpf", before=before),
        "no bpffs at /sys/fs/bpf",
        "run `mount -t bpf bpf /sys/fs/bpf` as root",
    )
    nothing_is_left(bare_place)


def test_a_place_for_bpffs_that_is_not_there(bare_place: Node) -> None:
    refused(FAILED, run(bare_place, "--bpffs", str(bare_place.directory / "none")), "no such directory", "mount -t bpf")


def test_a_kernel_that_lacks_a_needed_feature(bare_place: Node) -> None:
    before = (sys.executable, "-m", "tests.kernel.refusing", str(MAP_LOOKUP_BATCH))
    refused(FAILED, run(bare_place, before=before), "lacks batched map reads (Linux 5.6)", "Linux 5.10 and newer")
    nothing_is_left(bare_place)


def without_any(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def of_garbage(directory: Path) -> None:
    for path in directory.glob("*.o"):
        path.write_bytes(b"not an object" * 100)


def cut_short(directory: Path) -> None:
    for path in directory.glob("*.o"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_layout(directory: Path) -> None:
    sources = directory.parent / "sources"
    shutil.copytree(ROOT / "bpf", sources)
    header = sources / "flow.h"
    text = header.read_text()
    assert text.count("struct ledger {") == 1
    header.write_text(text.replace("struct ledger {", "struct ledger {\n\t__u64 other;"))
    for path in directory.glob("*.o"):
        compile_object(sources / "flow.bpf.c", path)


def of_somebody_else(directory: Path) -> None:
    for path in directory.glob("*.o"):
        compile_object(Path(__file__).with_name("programs") / "foreign.bpf.c", path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(without_any, ["No such file or directory", "make build"], id="none there"),
        pytest.param(of_garbage, ["flow.bpf.o"], id="garbage"),
        pytest.param(cut_short, ["flow.bpf.o"], id="cut short"),
        pytest.param(of_another_layout, ["another version", "rebuild"], id="of another layout"),
        pytest.param(of_somebody_else, ["lacks attachments", "not ours", "--objects"], id="of somebody else"),
    ],
)
def test_an_object_file_that_cannot_be_used(spoil: Callable[[Path], None], words: list[str], bare_place: Node) -> None:
    objects = bare_place.directory / "objects"
    shutil.copytree(default_objects(), objects)
    spoil(objects)
    refused(FAILED, run(bare_place, "--objects", str(objects)), *words)
    nothing_is_left(bare_place)


def test_a_second_agent_on_the_same_state(host: Host, place: Node) -> None:
    agent = started(place)
    refused(FAILED, run(place), f"another agent uses the state directory {place.directory / 'state'}")
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    assert agent.stop() == 0


@pytest.mark.parametrize("shared", [True, False], ids=["and the same pins", "and nothing in common"])
def test_a_second_agent_with_the_same_monitor(shared: bool, host: Host, place: Node) -> None:
    agent = started(place)
    bpffs = place.bpffs if shared else place.bpffs / "other"
    bpffs.mkdir(exist_ok=True)
    refused(
        FAILED,
        run(place, "--state-dir", str(place.directory / "other-state"), "--bpffs", str(bpffs)),
        "another agent here has the filters named podwire/",
        "stop it, or give one of the monitors another name",
    )
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    assert agent.stop() == 0
    assert place.flows_of_lines()["from_pod"].total() == 40


def test_a_second_agent_with_the_same_pins_in_another_network_namespace(host: Host, place: Node) -> None:
    agent = started(place)
    with node(host.pods[0].namespace) as elsewhere:
        outcome = run(elsewhere, "--bpffs", str(place.bpffs))
    refused(FAILED, outcome, "another agent has the pins in", "give one of the two another --bpffs")
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    assert agent.stop() == 0


def test_a_state_directory_that_cannot_be_made(bare_place: Node) -> None:
    (bare_place.directory / "file").write_text("")
    state = bare_place.directory / "file" / "state"
    refused(FAILED, run(bare_place, "--state-dir", str(state)), f"opening the state directory {state}", "--state-dir")
    nothing_is_left(bare_place)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a checkpoint", id="garbage"),
    ],
)
def test_a_checkpoint_that_cannot_be_read(content: bytes, bare_place: Node) -> None:
    agent = started(bare_place)
    agent.kill()
    (checkpoint,) = (bare_place.directory / "state").glob("*.checkpoint")
    checkpoint.write_bytes(content)
    refused(FAILED, run(bare_place), f"reading the checkpoint {checkpoint}", "run `podwire-agent cleanup`")
    assert bare_place.run("cleanup", *bare_place.places).returncode == 0
    nothing_is_left(bare_place)
    code, lines = run(bare_place)
    assert (code, lines) == (0, [])


def test_slots_that_cannot_be_read(bare_place: Node) -> None:
    agent = started(bare_place)
    agent.kill()
    (bare_place.directory / "state" / "slots").write_text("[1]")
    refused(FAILED, run(bare_place), "slots", "run `podwire-agent cleanup`")
    assert bare_place.run("cleanup", *bare_place.places).returncode == 0
    nothing_is_left(bare_place)


def test_pins_that_somebody_removed(bare_place: Node) -> None:
    agent = started(bare_place)
    agent.kill()
    for path in bare_place.pins():
        if path.name.startswith("from_pod"):
            path.unlink()
    refused(FAILED, run(bare_place), "not among the pins", "run `podwire-agent cleanup`")
    assert bare_place.run("cleanup", *bare_place.places).returncode == 0
    nothing_is_left(bare_place)


def test_nine_monitors(bare_place: Node) -> None:
    more = [option for number in range(8) for option in ("--file", str(bare_place.write(f"more{number}")))]
    refused(BAD_INPUT, run(bare_place, *more), "no place for one more monitor", "8 run or are kept")
    nothing_is_left(bare_place)


def test_two_files_with_one_name(bare_place: Node) -> None:
    again = bare_place.directory / "again.yaml"
    again.write_text(json.dumps(json.loads(bare_place.resource.read_text())))
    refused(BAD_INPUT, run(bare_place, "--file", str(again)), "exact is in two of the files")


def test_an_address_to_listen_on_that_is_taken(host: Host, bare_place: Node) -> None:
    with host.namespace.socket(2, 1) as taken:
        taken.bind(("127.0.0.1", 9437))
        taken.listen(1)
        refused(FAILED, run(bare_place, "--listen", "127.0.0.1:9437"), "127.0.0.1:9437")
    nothing_is_left(bare_place)

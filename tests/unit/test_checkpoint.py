from __future__ import annotations

import json
import os
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from podwire_agent import checkpoint
from podwire_agent.checkpoint import Header, Section
from podwire_agent.core.table import FLOW_ROW, FlowTable
from podwire_agent.errors import StateError
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection
from podwire_agent.model import Records

pytestmark = pytest.mark.unit

HEADER = Header(boot_id="0d6e", fingerprint="51ce")


def rows(count: int, fill: int = 1) -> Records:
    return np.frombuffer(bytes([fill]) * count * FLOW_ROW.itemsize, FLOW_ROW)


def sections(fill: int = 1) -> dict[str, Section]:
    return {
        "epochs": {"FROM_POD": fill},
        "counted": [[7, 0, 2**64 - 1, 1]],
        "flows": rows(20, fill),
        "none": rows(0),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "uid.checkpoint"


def fill_of(path: Path) -> int:
    loaded = checkpoint.load(path)
    assert loaded is not None
    epochs, flows = loaded.sections["epochs"], loaded.sections["flows"]
    assert isinstance(epochs, dict)
    assert isinstance(flows, np.ndarray)
    fill = epochs["FROM_POD"]
    assert isinstance(fill, int)
    assert flows.tobytes() == rows(20, fill).tobytes()
    return fill


def test_what_was_saved_is_loaded(path: Path) -> None:
    checkpoint.save(path, HEADER, sections())

    loaded = checkpoint.load(path)

    assert loaded is not None
    assert loaded.header == HEADER
    assert loaded.sections.keys() == sections().keys()
    for name, section in sections().items():
        found = loaded.sections[name]
        if isinstance(section, np.ndarray):
            assert isinstance(found, np.ndarray)
            assert (found.dtype, found.tobytes()) == (section.dtype, section.tobytes())
        else:
            assert found == section


def test_a_flow_table_goes_on_from_a_checkpoint(path: Path) -> None:
    keys, stats = np.zeros(3, FLOW_KEY), np.zeros(3, FLOW_STATS)
    keys["dst_port"] = [80, 443, 53]
    stats["packets"] = stats["bytes"] = [1, 2, 2**63]
    table = FlowTable(limit=10, seed=1)
    table.fold(FlowDirection.TO_POD, keys, stats)
    table.offer()

    checkpoint.save(path, HEADER, {"flows": table.rows()})
    loaded = checkpoint.load(path)
    assert loaded is not None
    flows = loaded.sections["flows"]
    assert isinstance(flows, np.ndarray)
    restored = FlowTable.restore(flows, limit=10, seed=2)

    assert restored.offered().tobytes() == table.offered().tobytes()
    assert restored.offered()["key"]["dst_port"].tolist() == [80, 443, 53]


def test_where_there_is_none_none_is_loaded(path: Path) -> None:
    assert checkpoint.load(path) is None


def test_a_checkpoint_replaces_the_one_before(path: Path) -> None:
    checkpoint.save(path, HEADER, sections(1))
    checkpoint.save(path, HEADER, sections(2))

    assert fill_of(path) == 2
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_one_cut_short_anywhere_is_refused_in_words(path: Path) -> None:
    checkpoint.save(path, HEADER, sections())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError, match=rf"reading the checkpoint {path}: .+; run `podwire-agent cleanup`"):
            checkpoint.load(path)


def test_one_with_a_damaged_byte_is_refused_or_still_whole(path: Path) -> None:
    checkpoint.save(path, HEADER, sections())
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert fill_of(path) == 1
        except StateError:
            refused += 1
    assert refused > len(whole) * 0.9


def test_one_half_written_aside_by_a_killed_agent_does_not_matter(path: Path) -> None:
    checkpoint.save(path, HEADER, sections(1))
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(path.read_bytes()[:100])

    assert fill_of(path) == 1
    checkpoint.save(path, HEADER, sections(2))
    assert fill_of(path) == 2
    assert not aside.exists()


def test_an_agent_killed_while_it_saves_leaves_the_old_or_the_new_one(path: Path) -> None:
    checkpoint.save(path, HEADER, sections(1))
    seen = set()
    for kill_after_bytes in (0, 100, 1000, 3000):
        child = os.fork()
        if not child:
            try:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (kill_after_bytes, kill_after_bytes))
                checkpoint.save(path, HEADER, sections(2))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGXFSZ
        seen.add(fill_of(path))
    assert seen == {1}
    assert path.with_name(f"{path.name}.tmp").exists()


@contextmanager
def files_no_larger_than(length: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 1000, 3000])
def test_without_room_the_old_one_stays_and_the_error_says_so(path: Path, room: int) -> None:
    checkpoint.save(path, HEADER, sections(1))

    with (
        files_no_larger_than(room),
        pytest.raises(StateError, match=f"writing the checkpoint {path}: File too large; nothing is lost"),
    ):
        checkpoint.save(path, HEADER, sections(2))

    assert fill_of(path) == 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def without_a_field(head: dict[str, object]) -> object:
    del head["boot_id"]
    return head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda head: head | {"format": 2},
            "has format 2, this agent reads 1; run the version that wrote it",
            id="a newer format",
        ),
        pytest.param(without_a_field, "'boot_id'; run `podwire-agent cleanup`", id="a header that lacks something"),
        pytest.param(lambda head: [head], "run `podwire-agent cleanup`", id="a header of another shape"),
        pytest.param(
            lambda head: head | {"arrays": ["flows"]}, "flows.npy", id="a section that is not where it should be"
        ),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_in_words(
    path: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    checkpoint.save(path, HEADER, {})
    with zipfile.ZipFile(path) as archive:
        head = json.loads(archive.read("header.json"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps(change(head)))

    with pytest.raises(StateError) as refusal:
        checkpoint.load(path)

    assert message in str(refusal.value)


def test_an_array_of_objects_is_neither_written_nor_run(path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.save(path, HEADER, {"flows": np.array([object()])})

    assert checkpoint.load(path) is None

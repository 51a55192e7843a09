"""An agent of another version, whose maps have another layout, is succeeded without a packet lost or doubled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.netns import Host, Pod
from tests.kernel.running import ROOT, environment, node
from tests.kernel.sending import sending, sent_by


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources whose flow statistics and ledgers begin with a field that ours have not."""
    root = tmp_path_factory.mktemp("other-version")
    for part in ("agent", "bpf", "crds", "tools"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    header = root / "bpf" / "flow.h"
    text = header.read_text()
    for name in ("flow_stats", "ledger"):
        text = text.replace(f"struct {name} {{", f"struct {name} {{\n\t__u64 other;", 1)
    header.write_text(text.replace("sizeof(struct flow_stats) == 40", "sizeof(struct flow_stats) == 48"))
    (root / "agent" / "podwire_agent" / "objects").mkdir(exist_ok=True)
    for module in ("tools.generate_layout", "tools.compile_bpf", "tools.bcc_sources"):
        subprocess.run([sys.executable, "-m", module], check=True, cwd=root, env=environment(root))
    return root


@pytest.fixture
def watched(other_version: Path) -> Iterator[tuple[Host, Pod, Path]]:
    with Host(pods=1) as host:
        host.namespace.run("ip", "link", "set", "veth1", "nomaster")
        host.settle()
        yield host, host.pods[0], other_version


@pytest.mark.parametrize("killed", [False, True], ids=["kept", "killed"])
def test_an_agent_with_another_layout_is_succeeded_and_succeeds_again_under_traffic(
    watched: tuple[Host, Pod, Path], killed: bool
) -> None:
    host, pod, other_version = watched
    frames, flows = 150_000, 1_000
    with node(host.namespace) as place:
        agent = place.start("--keep", root=other_version)
        agent.ready()
        with sending(pod.namespace, frames, flows, rate=25_000) as senders:
            for root in (ROOT, other_version, ROOT):
                with pytest.raises(subprocess.TimeoutExpired):
                    agent.process.wait(1.2)
                if killed:
                    agent.kill()
                else:
                    assert agent.stop() == 0, agent.errors.read_text()
                agent = place.start(*([] if root == ROOT and killed else ["--keep"]), root=root)
                agent.ready()
            for each in senders:
                each.wait()
        host.settle()
        assert agent.stop() == 0, agent.errors.read_text()
        if not killed:
            agent = place.start()
            agent.ready()
            assert agent.stop() == 0, agent.errors.read_text()
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)
        assert place.pins() == []


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8, 9, 10, 11])
def test_a_successor_with_another_layout_killed_on_the_way_is_succeeded_too(
    watched: tuple[Host, Pod, Path], steps: int
) -> None:
    host, pod, other_version = watched
    frames, flows = 60_000, 500
    with node(host.namespace) as place:
        agent = place.start(root=other_version)
        agent.ready()
        with sending(pod.namespace, frames, flows, rate=25_000) as senders:
            with pytest.raises(subprocess.TimeoutExpired):
                agent.process.wait(0.7)
            agent.kill()
            killed = place.start(module="tests.kernel.kill_at", arguments=[str(steps)])
            assert killed.process.wait(20) == -9, killed.errors.read_text()
            agent = place.start()
            agent.ready()
            for each in senders:
                each.wait()
        host.settle()
        assert agent.stop() == 0, agent.errors.read_text()
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def test_pins_of_another_version_that_nothing_describes_are_refused_and_cleaned_up(
    watched: tuple[Host, Pod, Path],
) -> None:
    host, _, other_version = watched
    with node(host.namespace) as place:
        agent = place.start(root=other_version)
        agent.ready()
        agent.kill()
        for described in (place.directory / "state").glob("*.layout"):
            described.unlink()
        refused = place.start()
        assert refused.process.wait(20) == 1
        assert "were made by another version" in refused.errors.read_text().splitlines()[-1]
        cleaned = place.run("cleanup", *place.places)
        assert cleaned.returncode == 0, cleaned.stderr
        assert place.pins() == []
        assert place.filters() == ""

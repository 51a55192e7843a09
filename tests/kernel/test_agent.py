"""The agent as a process: what it watches, beside whom, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from podwire_agent.kernel.loader import LibbpfLoader, Loaded
from podwire_agent.kernel.tcx import TcxLink
from podwire_agent.model import HookPoint, IfIndex
from tests.kernel.agent_fixtures import datagrams_between, ended, nothing_is_left, send, started
from tests.kernel.netns import Host, eventually
from tests.kernel.running import Node, node
from tests.kernel.sending import sending, sent_by
from tools.compile_bpf import compile_object


@pytest.mark.parametrize(
    ("interfaces", "watched"),
    [
        pytest.param({}, {"veth1", "veth2", "calix"}, id="by default every veth of a pod"),
        pytest.param({"vethPattern": "veth."}, {"veth1", "veth2"}, id="a pattern narrows"),
        pytest.param({"vethPattern": "veth"}, set(), id="a pattern is of the whole name"),
        pytest.param({"cni": "calico"}, {"calix"}, id="a CNI is its names"),
        pytest.param({"hostInterfaces": ["veth2"], "vethPattern": "x"}, {"veth2"}, id="a host interface as told"),
    ],
)
def test_the_choice_of_interfaces(interfaces: dict[str, object], watched: set[str], host: Host, place: Node) -> None:
    host.add_pod(interface="calix")
    place.spec = {"interfaces": interfaces}
    agent = started(place)
    assert place.attached() == watched
    ended(place, host, agent)
    assert {interface for interface, _ in place.last_ledgers()} == watched


def test_on_a_host_interface_what_comes_in_goes_to_the_pods(host: Host, place: Node) -> None:
    pod = host.pods[0]
    place.spec = {"interfaces": {"hostInterfaces": ["veth1"], "vethPattern": "x"}}
    agent = started(place, "--keep")
    ping_host(host)
    host.settle()
    assert agent.stop() == 0
    ping_host(host)
    agent = started(place)
    ended(place, host, agent)
    assert place.flows("veth1", "to_pod")[pod.ipv4, host.ipv4, 0, 0, "ICMP"][0] == 6
    assert place.flows("veth1", "from_pod")[host.ipv4, pod.ipv4, 0, 0, "ICMP"][0] == 6


def test_a_bridge_is_counted_and_says_why_its_own_counters_do_not_compare(host: Host, bare_place: Node) -> None:
    pod = host.pods[0]
    bare_place.spec = {"interfaces": {"hostInterfaces": ["br0"], "vethPattern": "x"}}
    agent = started(bare_place)
    ping_host(host)
    host.settle()
    assert agent.stop() == 0
    bare_place.identity_holds(verifiable=False)
    assert bare_place.flows("br0", "to_pod")[pod.ipv4, host.ipv4, 0, 0, "ICMP"][0] == 3
    assert bare_place.flows("br0", "from_pod")[host.ipv4, pod.ipv4, 0, 0, "ICMP"][0] == 3
    assert "without their Ethernet headers" in bare_place.last_ledgers()["br0", "to_pod"]["verdict"]


def ping_host(host: Host) -> None:
    """Three echo requests of the first pod."""
    host.pods[0].namespace.run("ping", "-q", "-c", "3", "-i", "0.01", host.ipv4)


def test_paused_nothing_is_attached_and_what_was_kept_is_taken_off(host: Host, place: Node) -> None:
    agent = started(place, "--keep")
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    assert agent.stop() == 0
    assert place.attached() == {"veth1", "veth2"}
    place.spec = {"paused": True}
    agent = started(place)
    assert place.attached() == set()
    assert agent.stop() == 0
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)


def test_what_a_new_file_does_not_choose_any_more_is_given_up_with_all_it_counted(host: Host, place: Node) -> None:
    agent = started(place, "--keep")
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    assert agent.stop() == 0
    place.spec = {"interfaces": {"vethPattern": "veth2"}}
    agent = started(place)
    assert place.attached() == {"veth2"}
    send(host.pods[0], host.pods[1], 30)
    host.settle()
    eventually(lambda: place.last_ledgers()["veth1", "from_pod"].get("gone"), "the account of veth1 is closed")
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 70)


def test_an_interface_that_becomes_one_of_the_host_begins_a_new_account(host: Host, bare_place: Node) -> None:
    agent = started(bare_place, "--keep")
    ping_host(host)
    host.settle()
    assert agent.stop() == 0
    bare_place.spec = {"interfaces": {"hostInterfaces": ["veth1"], "vethPattern": "x"}}
    agent = started(bare_place)
    eventually(lambda: "veth1" in bare_place.attached(), "it is attached again, the other way round")
    ping_host(host)
    ended(bare_place, host, agent)
    lives = bare_place.ledgers()["veth1", "from_pod"]
    assert [(line["counted"]["packets"], line.get("gone", False)) for line in lives] == [(3, True), (3, False)]
    echo = (host.pods[0].ipv4, host.ipv4, 0, 0, "ICMP")
    assert bare_place.flows("veth1", "from_pod")[echo][0] == 3
    assert bare_place.flows("veth1", "to_pod")[echo][0] == 3


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Loaded]:
    target = tmp_path / "foreign.bpf.o"
    compile_object(Path(__file__).with_name("programs") / "foreign.bpf.c", target)
    with LibbpfLoader(target).load({}) as loaded:
        yield loaded


def add_foreign(host: Host, place: Node, foreign: Loaded, program: str, priority: int) -> None:
    """Somebody else's filter at the ingress of veth1."""
    pin = place.bpffs / program
    foreign.programs[program].pin(pin)
    where = ["dev", "veth1", "ingress", "prio", str(priority)]
    host.namespace.run("tc", "filter", "add", *where, "bpf", "da", "object-pinned", str(pin))


@pytest.mark.parametrize(
    ("program", "priority", "arrive"),
    [
        pytest.param("answer_ok", 1, 40, id="one that comes first and passes"),
        pytest.param("answer_ok", 9, 40, id="one that comes after and passes"),
        pytest.param("answer_shot", 1, 0, id="one that comes first and drops"),
        pytest.param("answer_shot", 9, 0, id="one that comes after and drops"),
    ],
)
def test_beside_a_foreign_filter_all_is_seen_and_its_verdict_stands(
    program: str, priority: int, arrive: int, host: Host, bare_place: Node, foreign: Loaded
) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", "veth1", "clsact")
    add_foreign(host, bare_place, foreign, program, priority)
    before = bare_place.filters()
    agent = started(bare_place)
    send(host.pods[0], host.pods[1], 40)
    ended(bare_place, host, agent)
    assert datagrams_between(bare_place, host.pods[0], host.pods[1]) == (40, arrive)
    assert bare_place.filters() == before


def test_a_foreign_program_that_comes_before_ours_later_makes_the_ledger_say_so(
    host: Host, bare_place: Node, foreign: Loaded
) -> None:
    agent = started(bare_place)
    with (
        host.namespace.entered(),
        TcxLink.create(IfIndex(host.namespace.index("veth1")), HookPoint.INGRESS, foreign.programs["answer_unspec"].fd),
    ):
        eventually(
            lambda: not bare_place.last_ledgers().get(("veth1", "from_pod"), {"verifiable": True})["verifiable"],
            "the ledger says so",
        )
        assert "may keep packets from ours" in bare_place.last_ledgers()["veth1", "from_pod"]["verdict"]
        assert agent.stop() == 0


def test_on_an_ingress_qdisc_both_directions_are_counted_once(host: Host, place: Node) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", "veth1", "ingress")
    agent = started(place)
    send(host.pods[0], host.pods[1], 40)
    send(host.pods[1], host.pods[0], 30)
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)
    assert datagrams_between(place, host.pods[1], host.pods[0]) == (30, 30)
    assert "qdisc ingress" in host.namespace.run("tc", "qdisc", "show", "dev", "veth1")


def test_programs_that_somebody_took_off_are_put_back_and_the_gap_is_before_attach(host: Host, place: Node) -> None:
    agent = started(place)
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    host.namespace.run("tc", "qdisc", "del", "dev", "veth1", "clsact")
    eventually(lambda: "took our programs off" in agent.errors.read_text(), "it is noticed")
    eventually(lambda: "veth1" in place.attached(), "they are put back")
    send(host.pods[0], host.pods[1], 30)
    ended(place, host, agent)
    left, arrived = datagrams_between(place, host.pods[0], host.pods[1])
    assert (left, arrived) == (70, 70)


def test_two_monitors_of_one_agent_both_count_all(host: Host, place: Node) -> None:
    agent = started(place, "--file", str(place.write("other", interfaces={"vethPattern": "veth1"})))
    send(host.pods[0], host.pods[1], 40)
    ended(place, host, agent)
    place.identity_holds("other")
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)
    assert datagrams_between(place, host.pods[0], host.pods[1], monitor="other") == (40, 0)


def test_two_agents_with_states_of_their_own_stand_side_by_side(host: Host, place: Node) -> None:
    with node(host.namespace) as second_place:
        second_place.monitor = "other"
        first, second = started(place), started(second_place)
        send(host.pods[0], host.pods[1], 40)
        host.settle()
        ended(second_place, host, second)
        send(host.pods[0], host.pods[1], 30)
        ended(place, host, first)
        assert datagrams_between(place, host.pods[0], host.pods[1]) == (70, 70)
        assert datagrams_between(second_place, host.pods[0], host.pods[1]) == (40, 40)
        nothing_is_left(second_place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_last_report_and_without_a_trace(
    number: signal.Signals, host: Host, place: Node
) -> None:
    place.spec = {"pollingPeriod": "60s"}
    agent = started(place)
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    agent.process.send_signal(number)
    assert agent.process.wait(10) == 0
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)
    assert all(line["final"] for line in place.last_ledgers().values())


def test_it_ends_by_itself_after_its_duration(host: Host, place: Node) -> None:
    agent = started(place, "--duration", "2s")
    send(host.pods[0], host.pods[1], 40)
    assert agent.process.wait(10) == 0
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)


def test_a_reader_that_leaves_ends_it_with_a_word_and_without_a_trace(host: Host, bare_place: Node) -> None:
    reader = subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdin is not None
    assert reader.stdout is not None
    agent = bare_place.start(out=reader.stdin)
    reader.stdin.close()
    agent.ready()
    send(host.pods[0], host.pods[1], 40)
    eventually(lambda: reader.poll() is not None, "the reader has its line")
    send(host.pods[0], host.pods[1], 40)
    assert agent.process.wait(10) == 1
    assert "the reader closed the pipe" in agent.errors.read_text()
    assert agent.words() == ""
    assert json.loads(reader.stdout.read())["monitor"] == "exact"
    reader.stdout.close()
    nothing_is_left(bare_place)


def test_a_reader_that_stops_for_seconds_gets_every_count_once(host: Host, place: Node) -> None:
    """Each report is larger than the pipe, so that the agent's writer blocks."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as out:
        agent = place.start(out=out)
    agent.ready()
    frames, flows = 50_000, 2_000
    with sending(host.pods[0].namespace, frames, flows, rate=10_000) as senders:
        for each in senders:
            each.wait()
    host.settle()
    with os.fdopen(read, "rb") as pipe, agent.lines.open("wb") as kept:
        agent.process.send_signal(signal.SIGTERM)
        while block := pipe.read(1 << 16):
            kept.write(block)
    assert agent.process.wait(10) == 0
    assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def test_with_its_two_capabilities_alone_everything_works(host: Host, place: Node) -> None:
    agent = place.start(capabilities="-all,+bpf,+net_admin")
    agent.ready()
    status = Path("/proc", str(agent.process.pid), "status").read_text()
    assert f"CapEff:\t{1 << 12 | 1 << 39:016x}" in status
    third = host.add_pod()
    eventually(lambda: third.interface in place.attached(), "the new veth is watched")
    send(third, host.pods[0], 40)
    host.remove_pod(third)
    send(host.pods[0], host.pods[1], 40)
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)


def test_cleanup_removes_all_that_a_killed_agent_left_and_nothing_else(
    host: Host, bare_place: Node, foreign: Loaded
) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", "veth1", "clsact")
    add_foreign(host, bare_place, foreign, "answer_ok", 1)
    (bare_place.bpffs / "answer_ok").unlink()
    before = bare_place.filters()
    agent = started(bare_place)
    assert any(path.name.startswith("link-") for path in bare_place.pins())
    refused = bare_place.run("cleanup", *bare_place.places)
    assert refused.returncode == 1
    assert "another agent uses the state directory" in refused.stderr
    assert bare_place.attached() == {"veth1", "veth2"}
    agent.kill()
    done = bare_place.run("cleanup", *bare_place.places)
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"filter", "link", "pins"}
    assert bare_place.filters() == before
    nothing_is_left(bare_place)
    again = bare_place.run("cleanup", *bare_place.places)
    assert (again.returncode, again.stdout) == (0, "nothing to remove\n")


def test_cleanup_of_one_monitor_leaves_the_other(host: Host, bare_place: Node) -> None:
    agent = started(bare_place, "--file", str(bare_place.write("other")))
    agent.kill()
    done = bare_place.run("cleanup", "--monitor", "other", *bare_place.places)
    assert done.returncode == 0, done.stderr
    assert bare_place.attached() == {"veth1", "veth2"}
    unknown = bare_place.run("cleanup", "--monitor", "other", *bare_place.places)
    assert unknown.returncode == 1
    assert "nothing is left of a monitor other" in unknown.stderr
    agent = started(bare_place)
    send(host.pods[0], host.pods[1], 40)
    ended(bare_place, host, agent)
    assert datagrams_between(bare_place, host.pods[0], host.pods[1]) == (40, 40)
    nothing_is_left(bare_place)


def test_cleanup_leaves_an_agent_with_a_state_of_its_own_alone(host: Host, place: Node) -> None:
    agent = started(place)
    other = place.directory / "other-state"
    refused = place.run("cleanup", "--state-dir", str(other), "--bpffs", str(place.bpffs))
    assert refused.returncode == 1
    assert "another agent here has the filters" in refused.stderr
    send(host.pods[0], host.pods[1], 40)
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)


def test_doctor_tells_what_would_be_watched_and_why(host: Host, place: Node) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", "veth2", "root", "pfifo")
    file = place.write("narrow", interfaces={"vethPattern": "veth2"})
    told = place.run("doctor", "--json", "--file", str(file), *place.places)
    assert told.returncode == 0, told.stderr
    diagnosis = json.loads(told.stdout)
    found = {each["name"]: each for each in diagnosis["interfaces"]}
    assert {name for name, each in found.items() if each["watched"]} == {"veth2"}
    assert found["veth2"]["addresses"] == [host.pods[1].ipv4, host.pods[1].ipv6]
    assert "pfifo" in found["veth2"]["unverifiable"]["egress"]
    assert "does not match 'veth2'" in found["veth1"]["reason"]
    words = place.run("doctor", *place.places)
    assert words.returncode == 0
    assert "the agent can run here" in words.stdout
    assert "watched  veth1 " in words.stdout


def test_validate_tells_of_each_file(place: Node) -> None:
    good, bad = place.write("good"), place.write("bad", pollingPeriod="soon", whitelst=[])
    done = place.run("validate", str(good), str(bad), str(place.directory / "none.yaml"))
    assert done.returncode == 2
    assert f"{good}: NetworkMonitor good is valid" in done.stdout
    assert sum(str(bad) in line for line in done.stdout.splitlines()) == 2
    assert "none.yaml" in done.stdout
    assert place.run("validate", str(good)).returncode == 0


def test_an_agent_that_was_stopped_for_a_while_misses_cuts_and_no_packets(host: Host, place: Node) -> None:
    agent = started(place, "--listen", "127.0.0.1:9437")

    def shown(name: str) -> float:
        page = host.namespace.start(
            lambda: urlopen("http://127.0.0.1:9437/metrics", timeout=5).read().decode()
        ).result()
        (value,) = re.findall(rf"^podwire_agent_{name}\{{.*\}} (.*)$", page, re.MULTILINE)
        return float(value)

    eventually(lambda: shown("cuts_total") >= 2, "both directions are cut")  # cuts are missed between two
    os.kill(agent.process.pid, signal.SIGSTOP)
    try:
        send(host.pods[0], host.pods[1], 30)
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(3.2)
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)

    assert eventually(lambda: shown("missed_cuts_total"), "the missed cuts are counted") in (2, 3)
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (30, 30)

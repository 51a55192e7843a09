"""Operators that are killed, two at a time, and the API server and etcd taken away from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import yaml

from podwire_api.names import AGENT_TLS_SECRET, CA_SECRET, MONITORS, OPERATOR
from podwire_operator.cluster import Cluster
from tests.cluster.api_server import ApiServer
from tests.cluster.kubectl import Kubectl
from tests.cluster.operator_process import (
    LEASE,
    RESOURCES,
    SECRETS,
    USER,
    OperatorProcess,
    Stage,
    condition,
    daemon_set_path,
    manifests,
    monitor_path,
    pool_path,
)
from tests.cluster.polling import eventually
from tests.cluster.rbac import called, granted, idle, missing
from tests.unit.operator.leases import verify

DEFAULT = daemon_set_path("default")
PLANNED_S = 3.0
CRASH_S = 20.0
RETURN_S = 12.0
"""Within which all is as it should be, once the API server is ready again."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("outages")) as server:
        Kubectl(server.authority.kubeconfig("admin", server.url))("apply", "-k", str(manifests()))
        eventually(lambda: server.answers(f"{RESOURCES}/{MONITORS}"), "the kinds are served")
        stage = Stage(server)
        stage.make_node("n1")
        stage.make_node("n2")
        yield server


@pytest.fixture
def operator(server: ApiServer) -> Iterator[OperatorProcess]:
    """Leads; a former one's Lease may have to lapse first."""
    with OperatorProcess(server) as process:
        eventually(process.leads, "it leads", CRASH_S + 5)
        yield process
        assert not [line for line in process.lines() if "traceback" in line]


@pytest.fixture
def stage(server: ApiServer) -> Iterator[Stage]:
    stage = Stage(server)
    yield stage
    for each in server.get(f"{RESOURCES}/{MONITORS}")["items"]:
        server.delete(monitor_path(each["metadata"]["name"]))


def names_of_ready(stage: Stage, reason: str) -> set[str]:
    items = stage.server.get(f"{RESOURCES}/{MONITORS}")["items"]
    return {each["metadata"]["name"] for each in items if condition(each, "Ready").get("reason") == reason}


def holder(server: ApiServer) -> str:
    return str(server.get(LEASE)["spec"].get("holderIdentity", ""))


def view_has(process: OperatorProcess, monitors: int) -> bool:
    return f'podwire_operator_view_objects{{kind="networkmonitors"}} {monitors}.0' in process.get("/metrics")[1]


def test_an_operator_that_is_killed_again_and_again_gets_everything_right(server: ApiServer, stage: Stage) -> None:
    with OperatorProcess(server) as process:
        eventually(process.leads, "it leads", CRASH_S + 5)
        for number in range(12):
            stage.make_monitor(f"k{number}")
            if number % 4 == 2:
                # Somewhere between the events, the DaemonSet, and the statuses. The same name in the Lease: at once.
                process.kill()
                process.start()
        served, crowded = {f"k{number}" for number in range(8)}, {f"k{number}" for number in range(8, 12)}
        eventually(
            lambda: (
                len(names_of_ready(stage, "AgentsStarting")) == 8 and len(names_of_ready(stage, "TooManyMonitors")) == 4
            ),
            "all have their status",
            30,
        )
        told = names_of_ready(stage, "AgentsStarting") | names_of_ready(stage, "TooManyMonitors")
        assert told == served | crowded
        assert server.answers(DEFAULT)


def test_of_two_replicas_one_works_and_the_other_is_soon_there(server: ApiServer, stage: Stage) -> None:
    with OperatorProcess(server, "operator-a") as one, OperatorProcess(server, "operator-b") as two:
        eventually(lambda: one.leads() or two.leads(), "one leads", CRASH_S + 5)
        assert not (one.leads() and two.leads())
        leader, follower = (one, two) if one.leads() else (two, one)
        stage.make_monitor("first")
        stage.await_reason(monitor_path("first"), "AgentsStarting")
        eventually(lambda: view_has(follower, 1), "the follower has seen it")
        assert follower.get("/readyz") == (200, "ok, following\n")

        began = time.monotonic()
        assert leader.terminate() == 0
        eventually(follower.leads, "the other one leads", PLANNED_S)
        planned_s = time.monotonic() - began
        stage.make_monitor("second")
        stage.await_reason(monitor_path("second"), "AgentsStarting")

        leader.start()
        eventually(lambda: leader.get("/readyz")[0] == 200, "it follows")
        follower.kill()
        began = time.monotonic()
        eventually(leader.leads, "the first one leads again", CRASH_S)
        crash_s = time.monotonic() - began
        stage.make_monitor("third")
        stage.await_reason(monitor_path("third"), "AgentsStarting")
        print(f"leader ended in order: {planned_s:.1f} s; leader killed: {crash_s:.1f} s")


def test_a_leader_that_was_stopped_for_a_while_writes_nothing_when_it_wakes(server: ApiServer, stage: Stage) -> None:
    with OperatorProcess(server, "operator-a") as one:
        eventually(one.leads, "it leads", CRASH_S + 5)
        with OperatorProcess(server, "operator-b") as two:
            eventually(lambda: two.get("/readyz")[0] == 200, "the other one follows")
            one.suspend()
            try:
                eventually(lambda: holder(server) == "operator-b", "the other one took the Lease", CRASH_S)
                stage.make_monitor("meanwhile")
                stage.await_reason(monitor_path("meanwhile"), "AgentsStarting")
                before = len(stage.writes())
            finally:
                one.resume()
            eventually(lambda: view_has(one, 1), "it has seen what came meanwhile")
            eventually(lambda: not one.leads(), "it knows that it does not lead")
            assert stage.writes(before) == []
            assert two.leads()


def test_an_api_server_that_is_away_for_a_while_is_caught_up_with(
    server: ApiServer, operator: OperatorProcess, stage: Stage
) -> None:
    stage.make_monitor("before")
    stage.make_monitor("doomed")
    stage.await_reason(monitor_path("doomed"), "AgentsStarting")
    server.kill()
    gone = time.monotonic()
    eventually(lambda: time.monotonic() - gone > 20, "it was away for 20 s")
    assert operator.get("/healthz")[0] == 200
    server.start()
    began = time.monotonic()
    stage.delete(monitor_path("doomed"))
    stage.make_monitor("after")
    stage.await_reason(monitor_path("after"), "AgentsStarting", RETURN_S)
    eventually(lambda: view_has(operator, 2), "the view has the two that are left", RETURN_S)
    print(f"all told {time.monotonic() - began:.1f} s after the API server's return")
    assert not operator.stopped()


def test_what_was_deleted_while_nobody_could_tell_is_gone_from_the_view(
    server: ApiServer, operator: OperatorProcess, stage: Stage
) -> None:
    """A watch that is too old is answered 410; kopf lists anew, and says nothing of what is not there any more."""
    stage.make_monitor("stays")
    stage.make_monitor("goes")
    eventually(lambda: view_has(operator, 2), "both are seen")
    operator.suspend()
    try:
        server.kill()
        server.start()
        stage.delete(monitor_path("goes"))
        version = stage.make_monitor("later")["metadata"]["resourceVersion"]
        server.compact(version)
        server.kill()  # what it had in its cache
        server.start()
    finally:
        operator.resume()
    stage.await_reason(monitor_path("later"), "AgentsStarting", RETURN_S + CRASH_S)
    eventually(lambda: view_has(operator, 2), "the view has the two that are left", RETURN_S)


def test_an_etcd_that_starts_anew_is_caught_up_with(server: ApiServer, operator: OperatorProcess, stage: Stage) -> None:
    server.kill("etcd")
    gone = time.monotonic()
    eventually(lambda: time.monotonic() - gone > 8, "it was away for 8 s")
    server.etcd.start()
    eventually(lambda: server.answers("/readyz"), "the API server has it again", 30)
    stage.make_monitor("after")
    stage.await_reason(monitor_path("after"), "AgentsStarting", RETURN_S + 5)
    assert not operator.stopped()


def test_secrets_that_are_gone_or_damaged_are_made_anew(server: ApiServer, stage: Stage) -> None:
    del stage
    with OperatorProcess(server) as process:
        eventually(process.leads, "it leads", CRASH_S + 5)
        eventually(lambda: server.answers(f"{SECRETS}/{AGENT_TLS_SECRET}"), "they are there")
        authority = server.get(f"{SECRETS}/{CA_SECRET}")["data"]["tls.crt"]
        assert process.terminate() == 0
        server.delete(f"{SECRETS}/{AGENT_TLS_SECRET}")
        process.start()
        eventually(lambda: server.answers(f"{SECRETS}/{AGENT_TLS_SECRET}"), "it is there again")
        assert server.get(f"{SECRETS}/{CA_SECRET}")["data"]["tls.crt"] == authority
        assert process.terminate() == 0
        server.patch(f"{SECRETS}/{CA_SECRET}", data={"tls.key": "bm90IGEga2V5"})
        process.start()

        def new_authority() -> bool:
            trusted = server.get(f"{SECRETS}/{AGENT_TLS_SECRET}")["data"]["ca.crt"]
            made = server.get(f"{SECRETS}/{CA_SECRET}")["data"]["tls.crt"]
            return made not in {authority, ""} and bool(trusted == made)

        eventually(new_authority, "there is another CA, and it is trusted")
        assert "PRIVATE KEY" not in process.log.read_text()


def test_the_api_server_keeps_a_lease_as_the_fake_does(server: ApiServer) -> None:
    async def at_the_server() -> None:
        async with Cluster("default", server.directory / "admin.kubeconfig") as cluster:
            await verify(cluster)

    asyncio.run(at_the_server())


def test_it_uses_every_right_that_it_has_and_has_every_right_that_it_uses(server: ApiServer, stage: Stage) -> None:
    with OperatorProcess(server) as process:
        eventually(process.leads, "it leads", CRASH_S + 5)
        eventually(lambda: server.answers(f"{SECRETS}/{AGENT_TLS_SECRET}"), "the Secrets are there")
        process.terminate()
        for name in (AGENT_TLS_SECRET, CA_SECRET):
            server.patch(f"{SECRETS}/{name}", data={"tls.key": "bm90IGEga2V5"})
        process.start()
        stage.make_monitor("shop")
        stage.await_reason(monitor_path("shop"), "AgentsStarting")
        eventually(lambda: server.answers(DEFAULT), "the DaemonSet is made")
        stage.roll_out("default", 1, desired=2)  # asks for the pods
        stage.await_reason(pool_path("default"), "RollingOut")
        stage.roll_out("default", 2)
        stage.report("n1", "default", "shop")
        stage.report("n2", "default", "shop")
        stage.await_reason(monitor_path("shop"), "Attached")  # posts an event
        stage.delete(monitor_path("shop"))
        stage.report("n1", "default")
        stage.report("n2", "default")
        eventually(lambda: not server.answers(DEFAULT), "the DaemonSet is deleted")
        rendered = Kubectl(server.directory / "admin.kubeconfig")("kustomize", str(manifests()))
        rights = granted(list(yaml.safe_load_all(rendered)), OPERATOR)
        eventually(lambda: not idle(rights, called(server.audit(), OPERATOR)), "all rights are used")
        assert missing(rights, called(server.audit(), OPERATOR)) == []


def test_the_lease_is_all_that_an_idle_leader_writes(server: ApiServer, operator: OperatorProcess) -> None:
    assert operator.leads()
    eventually(lambda: Stage(server).ready(pool_path("default"))["reason"] in {"NoMonitors", "Draining"}, "it is quiet")
    quiet = time.monotonic()
    eventually(lambda: time.monotonic() - quiet > 3, "it is quiet for a while")
    seen = len(list(server.audit()))
    eventually(lambda: time.monotonic() - quiet > 15, "a while has passed")
    written = [each for each in list(server.audit())[seen:] if each.user == USER and each.writes]
    assert {each.resource for each in written} == {"leases"}
    assert 2 <= len(written) <= 6

"""The resources as a real API server has them: what it refuses, in which words, and what a second apply changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire_agent.errors import ClusterError
from podwire_api import InvalidResource, compile_veth_pattern, load_resource_documents, load_resources
from podwire_api.names import API_VERSION, MONITORS, POOLS
from tests.cluster.api_server import ApiServer
from tests.cluster.kubectl import Kubectl
from tests.cluster.polling import eventually
from tests.cluster.resources import ACCEPTED, REFUSED, STDOUT, document, monitor, pool
from tests.unit.api.test_pools import WRONG_POOLS
from tests.unit.api.test_refused import WRONG_SPECS, rule

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
POOL_SAMPLES = sorted((ROOT / "manifests" / "samples" / "agentpools").glob("*.yaml"))
WITHOUT_SINK = {"demo.yaml", "minimal.yaml"}
"""For files: in a cluster nobody would see what they measure."""
REFERENCE = ROOT / "docs" / "reference" / "networkmonitor.md"

PLURALS = {"NetworkMonitor": MONITORS, "AgentPool": POOLS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With the kinds."""
    with ApiServer(tmp_path_factory.mktemp("resources")) as server:
        Kubectl(server.authority.kubeconfig("admin", server.url))("apply", "-k", str(ROOT / "crds"))
        served = [f"/apis/{API_VERSION}/{plural}" for plural in PLURALS.values()]
        eventually(lambda: all(map(server.answers, served)), "the kinds are served")
        yield server


@pytest.fixture(scope="module")
def kubectl(server: ApiServer) -> Kubectl:
    return Kubectl(server.directory / "admin.kubeconfig")


def refusal(server: ApiServer, resource: dict[str, Any]) -> str:
    """What the API server says against it; "" where it takes it. Nothing is stored."""
    path = f"/apis/{API_VERSION}/{PLURALS[resource['kind']]}"
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        server.connection().request("POST", path, query=query, body=json.dumps(resource).encode())
    except ClusterError as error:
        if error.status not in {400, 422}:
            raise
        return str(error)
    return ""


@pytest.mark.parametrize(("resource", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_resource_is_refused_at_apply_with_its_field_and_what_is_allowed(
    kubectl: Kubectl, resource: dict[str, Any], field: str, words: str
) -> None:
    said = kubectl.tried("apply", "-f", "-", stdin=yaml.safe_dump(resource))
    assert said.code == 1
    [line] = [line for line in said.err.splitlines() if words in line]
    assert f"{field}:" in line or f'unknown field "{field}"' in line, said.err


def with_sink(spec: Any) -> Any:
    return {"sinks": [STDOUT], **spec} if isinstance(spec, dict) else spec


@pytest.mark.parametrize("name", WRONG_SPECS)
def test_the_server_refuses_what_a_file_may_not_say(server: ApiServer, name: str) -> None:
    spec, field, _ = WRONG_SPECS[name]
    said = refusal(server, document("NetworkMonitor", with_sink(spec)))
    about = field.partition('["')[0]
    # A second entry of its kind is the list's fault, of its name the entry's.
    assert any(each in said for each in (about, about.removesuffix(".name"), about.removesuffix("[1]"))), said


@pytest.mark.parametrize("name", WRONG_POOLS)
def test_the_server_refuses_what_a_pool_in_a_file_may_not_say(server: ApiServer, name: str) -> None:
    spec, field, _ = WRONG_POOLS[name]
    assert field.removesuffix(".memory").removesuffix(".cpu") in refusal(server, document("AgentPool", spec))


@pytest.mark.parametrize("name", [name for name in REFUSED if not name.startswith(("no sinks", "an empty list of s"))])
def test_a_file_may_not_say_what_the_server_refuses(name: str) -> None:
    resource, field, _ = REFUSED[name]
    with pytest.raises(InvalidResource) as refused:
        load_resource_documents(yaml.safe_dump(resource), "f")
    ours = re.sub(r"\[([a-z]+)\]", r".\1", field)
    assert any(problem.field.startswith(ours) for problem in refused.value.problems)


@pytest.mark.parametrize("resource", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_right_in_a_file_is_right_in_a_cluster(server: ApiServer, resource: dict[str, Any]) -> None:
    assert load_resource_documents(yaml.safe_dump(resource), "f")
    assert not refusal(server, resource)


def test_the_largest_monitor_that_a_cluster_can_store_is_not_too_much_for_its_rules(server: ApiServer) -> None:
    cidrs = [f"2001:db8:{each:x}:aaaa:bbbb:cccc::/96" for each in range(1000)]
    largest = monitor(whitelist=[{"name": f"r{each}", "cidrs": cidrs} for each in range(38)])
    assert 1_300_000 < len(json.dumps(largest)) < 1_500_000
    assert not refusal(server, largest)


@pytest.mark.parametrize("sample", [*SAMPLES, *POOL_SAMPLES], ids=lambda path: path.name)
def test_a_sample_that_has_a_sink_is_accepted(kubectl: Kubectl, sample: Path) -> None:
    assert load_resources(sample)
    said = kubectl.tried("apply", "--dry-run=server", "-f", str(sample))
    if sample.name in WITHOUT_SINK:
        assert "spec.sinks: Required value: needs at least one sink" in said.err
    else:
        assert (said.code, said.err) == (0, "")


PATTERNS = st.lists(
    st.sampled_from(
        [*"ab-0.|^$*+?()[]{},\\dwsDbAZ_é ", "[^", "(?:", "(?i)", "{2}", "{1,3}", "{02}", "{16}", "--", "[]"]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(PATTERNS)
def test_a_pattern_is_one_for_the_server_exactly_where_it_is_one_for_the_agent(server: ApiServer, pattern: str) -> None:
    try:
        compile_veth_pattern(pattern)
        good = 0 < len(pattern) <= 64
    except ValueError:
        good = False
    said = refusal(server, monitor(interfaces={"vethPattern": pattern}))
    assert (said == "") == good, said
    assert good or "spec.interfaces.vethPattern" in said


CHARACTERS = st.text("0123456789abcf.:/-[]@ A%", max_size=12)


@settings(max_examples=100, deadline=None)
@given(CHARACTERS, CHARACTERS, CHARACTERS, CHARACTERS)
def test_texts_are_right_for_the_server_exactly_where_they_are_for_a_file(
    server: ApiServer, cidr: str, port: str, name: str, host: str
) -> None:
    for fields in (
        rule(cidrs=[cidr]),
        rule(ports=[port]),
        rule(namespaces=[name]),
        rule(services=[f"a/{name}"]),
        {"nodes": {"nodeSelector": {name: "a"}}},
        {"nodes": {"nodeSelector": {"a": name}}},
        {"interfaces": {"hostInterfaces": [name]}},
        {"sinks": [{"name": "s", "http": {"url": f"http://{host}"}}]},
    ):
        resource = monitor(**fields)
        try:
            load_resource_documents(yaml.safe_dump(resource), "f")
            good = True
        except InvalidResource:
            good = False
        said = refusal(server, resource)
        assert (said == "") == good, (fields, said)


CLIENT: tuple[str, ...] = ()
SERVER = ("--server-side",)


@pytest.mark.parametrize("sample", [path for path in (*SAMPLES, *POOL_SAMPLES) if path.name not in WITHOUT_SINK])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(CLIENT, (CLIENT,), id="client-side"),
        pytest.param(SERVER, (SERVER,), id="server-side"),
        pytest.param(CLIENT, (SERVER, SERVER), id="client-side, then server-side"),
        pytest.param(SERVER, (CLIENT, CLIENT), id="server-side, then client-side"),
    ],
)
def test_a_second_apply_of_the_same_file_changes_nothing(
    kubectl: Kubectl, sample: Path, first: tuple[str, ...], then: tuple[tuple[str, ...], ...]
) -> None:
    kubectl("apply", "-f", str(sample), *first)
    try:
        # What the operator does at once. Until then the server has stored no status, and stores the schema's own with
        # the first write, whatever it is.
        seen = '{"status": {"observedGeneration": 1}}'
        kubectl("patch", "-f", str(sample), "--subresource=status", "--type=merge", f"--patch={seen}")
        made = kubectl.get("-f", str(sample))
        *before, last = then
        for how in before:  # takes over what the other way owned, and its annotation
            kubectl("apply", "-f", str(sample), *how)
        between = kubectl.get("-f", str(sample))
        kubectl("apply", "-f", str(sample), *last)
        after = kubectl.get("-f", str(sample))
        assert after["metadata"]["resourceVersion"] == between["metadata"]["resourceVersion"]
        assert after["metadata"]["generation"] == 1
        assert after["spec"] == made["spec"]
    finally:
        kubectl("delete", "-f", str(sample))


@pytest.mark.parametrize("resource", [monitor(), pool()], ids=lambda resource: resource["kind"])
def test_a_fresh_object_is_not_ready_and_has_its_defaults(kubectl: Kubectl, resource: dict[str, Any]) -> None:
    text = yaml.safe_dump(resource)
    kubectl("apply", "-f", "-", stdin=text)
    try:
        plural = PLURALS[resource["kind"]]
        fresh = kubectl.get(plural, "a")
        [condition] = fresh["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "Unknown", "Pending")
        waited = kubectl.tried("wait", "--for=condition=Ready", f"{plural}/a", "--timeout=1s")
        assert waited.code == 1
        head, row = kubectl("get", plural, "a").splitlines()
        assert head.split()[:4] == ["NAME", "READY", "REASON", "NODES"]
        assert row.split()[:3] == ["a", "Unknown", "Pending"]
        if plural == MONITORS:
            assert fresh["spec"] == {
                "interfaces": {"cni": "auto"},
                "maxFlows": 65536,
                "paused": False,
                "pollingPeriod": "5s",
                "reportEvery": 1,
                "sinks": [STDOUT],
            }
            assert head.split() == ["NAME", "READY", "REASON", "NODES", "PODS", "FLOWS/S", "LOST", "AGE"]
        else:
            assert fresh["spec"]["resources"]["requests"] == {"cpu": "50m", "memory": "128Mi"}
            assert fresh["spec"]["tolerations"] == [{"operator": "Exists"}]
    finally:
        kubectl("delete", "-f", "-", stdin=text)


def test_kubectl_explains_what_the_reference_shows(kubectl: Kubectl) -> None:
    said = kubectl("explain", "networkmonitor.spec")
    shown = "\n".join(line.rstrip() for line in said.replace("\t", " ").strip().splitlines())
    assert f"```console\n$ kubectl explain networkmonitor.spec\n{shown}\n```" in REFERENCE.read_text(), shown


def test_kubectl_says_what_the_reference_shows_of_a_wrong_monitor(kubectl: Kubectl) -> None:
    wrong = {"pollingPeriod": "5 s", **rule(cidrs=["10.0.0.0/8", "10.0.0.0/33"])}
    said = kubectl.tried("apply", "-f", "-", stdin=yaml.safe_dump(document("NetworkMonitor", wrong, "shop")))
    assert len(said.err.splitlines()) == 4
    for line in said.err.splitlines():
        assert line in REFERENCE.read_text().splitlines()


def test_short_names_and_the_category_find_the_kinds(kubectl: Kubectl) -> None:
    assert kubectl("get", "nmon", "--output=name") == ""
    found = kubectl("api-resources", "--categories=podwire", "--output=name", "--cached=false").split()
    assert sorted(each.partition(".")[0] for each in found) == ["agentnodes", "agentpools", "networkmonitors"]

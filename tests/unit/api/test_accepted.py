"""What a valid resource means: defaults, values, samples, and the reference page's example."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from podwire_agent.kernel.cni import CNIS
from podwire_api import (
    CniName,
    InvalidResource,
    NetworkMonitor,
    NetworkMonitorSpec,
    format_duration,
    load_documents,
    load_file,
    notes,
    parse_cidr,
    parse_duration,
    parse_port_range,
    uid_of_name,
)
from podwire_api.documents import MAX_FILE_BYTES

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
HEAD = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {name: a}\n"


def monitor(spec: str) -> NetworkMonitor:
    [loaded] = load_documents(f"{HEAD}spec: {spec}\n", "m")
    return loaded


def test_the_defaults_are_those_of_the_reference() -> None:
    spec = monitor("{}").spec
    assert spec.interfaces.cni is CniName.AUTO
    assert (spec.interfaces.veth_pattern, spec.interfaces.host_interfaces) == (None, ())
    assert (spec.nodes.node_selector, spec.whitelist, spec.blacklist) == ({}, (), ())
    assert (spec.polling_period_ns, spec.report_every, spec.report_period_ns) == (5 * 10**9, 1, 5 * 10**9)
    assert (spec.max_flows, spec.max_rows, spec.workload_cache_ttl_ns) == (65536, 10_000, 60 * 10**9)
    assert (spec.latency.enabled, spec.latency.max_age_ns, spec.loss.exchange) == (True, 2 * 10**9, True)
    assert (spec.external_networks, spec.sinks, spec.paused) == ((), (), False)


def test_defaults_are_values_that_the_models_accept() -> None:
    defaults = NetworkMonitorSpec().model_dump(by_alias=True, exclude_none=True)
    assert NetworkMonitorSpec.model_validate(defaults) == NetworkMonitorSpec()


def test_the_cache_lifetime_grows_with_the_reports_period_where_it_is_left_out() -> None:
    assert monitor("{pollingPeriod: 1m, reportEvery: 5}").spec.workload_cache_ttl_ns == 300 * 10**9


def test_an_empty_field_is_an_absent_one() -> None:
    assert monitor("{nodes: , blacklist: , maxFlows: }").spec == NetworkMonitorSpec()


def test_only_what_was_written_counts_as_set() -> None:
    assert monitor("{maxFlows: 65536, latency: {}}").spec.model_fields_set == {"max_flows", "latency"}


def test_a_monitor_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        monitor("{}").spec.paused = True


def test_what_the_cluster_writes_into_an_object_is_passed_over() -> None:
    text = HEAD.replace(
        "{name: a}", "{name: a, generation: 3, managedFields: [{manager: x}], labels: {born: 2024-01-01}}"
    )
    [loaded] = load_documents(f"{text}spec: {{}}\nstatus: {{conditions: []}}\n", "m")
    assert loaded.metadata.name == "a"


def test_a_files_monitor_is_known_by_its_name_and_a_clusters_by_its_uid() -> None:
    [by_name] = load_documents(f"{HEAD}spec: {{}}\n", "m")
    uid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
    [by_uid] = load_documents(HEAD.replace("name: a", f"name: a, uid: {uid}") + "spec: {}\n", "m")
    assert by_name.uid == uid_of_name("a") != uid_of_name("b")
    assert uuid.UUID(by_name.uid).version == 5
    assert by_uid.uid == uid


def test_the_uid_of_a_name_never_changes_from_version_to_version() -> None:
    assert uid_of_name("demo") == "e20ef2c9-e97a-5d7e-9ad5-90c653eddb98"


def test_several_documents_are_several_monitors_and_empty_ones_are_none() -> None:
    text = f"---\n{HEAD}spec: {{}}\n---\n# none\n---\n{HEAD.replace('name: a', 'name: b')}spec: {{}}\n...\n"
    assert [loaded.metadata.name for loaded in load_documents(text, "m")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "ns"), {"1ms": 10**6, "30s": 30 * 10**9, "1m30s": 90 * 10**9, "2h": 7200 * 10**9}.items()
)
def test_a_duration_is_exact_nanoseconds(text: str, ns: int) -> None:
    assert parse_duration(text) == ns
    assert format_duration(ns) == text


@given(st.integers(0, 9999 * 3600 * 1000))
def test_a_printed_duration_is_the_same_duration(milliseconds: int) -> None:
    text = format_duration(milliseconds * 10**6)
    total = sum(parse_duration(part) for part in re.findall(r"[0-9]+(?:ms|s|m|h)", text))
    assert total == milliseconds * 10**6


@pytest.mark.parametrize("ns", [-(10**6), 1, 10**6 + 1])
def test_what_no_duration_can_say_is_not_printed(ns: int) -> None:
    with pytest.raises(ValueError, match="whole, non-negative"):
        format_duration(ns)


def test_ports_are_numbers_or_ranges() -> None:
    [rule] = monitor('{blacklist: [{name: r, ports: [80, "8000-8010", "7-7"]}]}').spec.blacklist
    assert [parse_port_range(port) for port in rule.ports] == [(80, 80), (8000, 8010), (7, 7)]


@pytest.mark.parametrize(
    ("text", "network"),
    {
        "10.1.2.3": "10.1.2.3/32",
        "10.1.2.3/8": "10.0.0.0/8",
        "0.0.0.0/0": "0.0.0.0/0",
        "fd00::1": "fd00::1/128",
        "fd00::1/8": "fd00::/8",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    }.items(),
)
def test_a_cidr_is_a_network_and_an_address_a_network_of_one(text: str, network: str) -> None:
    [rule] = monitor(f'{{blacklist: [{{name: r, cidrs: ["{text}"]}}]}}').spec.blacklist
    assert str(parse_cidr(rule.cidrs[0])) == network


NOTES = {
    "no sink": ("{}", "spec.sinks: none"),
    "a port rule on protocols without ports": (
        "{sinks: [{name: s, stdout: {}}], blacklist: [{name: r, ports: [1], protocols: [ICMP]}]}",
        "spec.blacklist[0]: never holds, since ICMP has no ports",
    ),
    "bits behind a prefix": (
        "{sinks: [{name: s, stdout: {}}], whitelist: [{name: r, peer: {cidrs: [10.0.0.0/8, 10.1.2.3/8, 10.0.0.1]}}]}",
        "spec.whitelist[0].peer.cidrs[1]: 10.1.2.3/8 means 10.0.0.0/8",
    ),
}


@pytest.mark.parametrize(("spec", "note"), NOTES.values(), ids=NOTES)
def test_what_may_not_be_meant_is_noted(spec: str, note: str) -> None:
    [found] = notes(monitor(spec))
    assert found.startswith(note)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_a_sample_loads(sample: Path) -> None:
    assert len(load_file(sample)) == 1


def set_fields(model: BaseModel) -> set[str]:
    """Names of all fields, at any depth, that a document set."""
    found = set()
    for name in model.model_fields_set:
        value = getattr(model, name)
        found.add(f"{type(model).__name__}.{name}")
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, BaseModel):
                found |= set_fields(part)
    return found


def test_the_full_sample_sets_every_field_of_the_spec() -> None:
    [full] = load_file(ROOT / "manifests/samples/full.yaml")
    missing = set(NetworkMonitorSpec.model_fields) - full.spec.model_fields_set
    assert not missing
    assert {"Rule.ports", "Rule.peer", "Rule.cidrs_from", "Rule.direction", "HttpSink.headers_from"} <= set_fields(full)


def reference() -> str:
    return (ROOT / "docs/reference/networkmonitor.md").read_text()


def test_the_references_example_is_the_full_sample() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    assert example == (ROOT / "manifests/samples/full.yaml").read_text()


def test_the_references_messages_are_those_that_are_given() -> None:
    [shown] = re.findall(r"```console\n\$ podwire-agent validate monitor.yaml\n(monitor.*?)```", reference(), re.DOTALL)
    text = f"{HEAD}\nspec:\n  pollingPeriod: 5 s\n  maxflows: 1024\n  blacklist:\n    - name: a\n"
    with pytest.raises(InvalidResource) as refused:
        load_documents(f"{text}      cidrs: [10.0.0.0/8, 10.0.0.0/33]\n", "monitor.yaml")
    assert f"{refused.value}\n" == shown


def test_the_reference_names_every_field_of_every_model() -> None:
    schema = NetworkMonitorSpec.model_json_schema()
    fields = {name for model in (schema, *schema["$defs"].values()) for name in model.get("properties", {})}
    assert not {name for name in fields if f"`{name}`" not in reference() and f".{name}`" not in reference()}


def test_the_agent_knows_the_interfaces_of_every_plug_in_that_can_be_named() -> None:
    assert {name.value for name in CniName} == {*CNIS, "auto"}


UNREADABLE = {
    "a file that is not there": (None, "cannot be read: No such file or directory; check the path"),
    "a file that is not UTF-8": (b"a: \xff\n", "is not UTF-8 text (byte 3)"),
    "a file beyond the bound": (b"#" * (MAX_FILE_BYTES + 1), "is larger than 3000000 bytes"),
}


@pytest.mark.parametrize(("content", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_refused_by_its_name(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidResource) as refused:
        load_file(path)
    assert str(refused.value).startswith(f"{path}: {words}")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match="Is a directory"):
        load_file(tmp_path)

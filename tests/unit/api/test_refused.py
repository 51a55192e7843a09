"""Wrong resources: each is refused by one line that names the field, its line, and what is allowed."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire_api import InvalidResource, load_documents
from podwire_api.problems import field_name


def document(spec: object, name: str = "shop") -> str:
    resource = {
        "apiVersion": "podwire.dev/v1alpha1",
        "kind": "NetworkMonitor",
        "metadata": {"name": name},
        "spec": spec,
    }
    return yaml.safe_dump(resource, sort_keys=False)


def problems_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidResource) as refused:
        load_documents(text, "monitor.yaml")
    return [(problem.field, problem.message) for problem in refused.value.problems]


def rule(**fields: object) -> dict[str, Any]:
    return {"blacklist": [{"name": "r", **fields}]}


WRONG_SPECS: dict[str, tuple[object, str, str]] = {
    "a misspelt field gets the right name": (
        {"polingPeriod": "5s"},
        "spec.polingPeriod",
        "did you mean pollingPeriod?",
    ),
    "a field in the wrong case gets the right name": ({"maxflows": 2048}, "spec.maxflows", "did you mean maxFlows?"),
    "an unknown field without a near one gets the list": ({"colour": "red"}, "spec.colour", "known here: interfaces, "),
    "an unknown field with an empty value is unknown too": ({"colour": None}, "spec.colour", "unknown field"),
    "an unknown field of a rule's peer": (rule(peer={"ports": [1]}), "spec.blacklist[0].peer.ports", "unknown field"),
    "an unknown field of a sink without fields": (
        {"sinks": [{"name": "s", "stdout": {"format": "json"}}]},
        "spec.sinks[0].stdout.format",
        "nothing can be set here",
    ),
    "a duration without a unit": ({"pollingPeriod": 5}, "spec.pollingPeriod", "5 is not a duration from 1s to 5m"),
    "a duration with an unknown unit": ({"pollingPeriod": "5d"}, "spec.pollingPeriod", '"5d" is not a duration from'),
    "a duration with a fraction": ({"pollingPeriod": "1.5s"}, "spec.pollingPeriod", "is not a duration"),
    "a duration with a line break": ({"pollingPeriod": "5s\n"}, "spec.pollingPeriod", "is not a duration"),
    "a polling period below its bound": (
        {"pollingPeriod": "999ms"},
        "spec.pollingPeriod",
        "from 1s to 5m, such as 1m30s",
    ),
    "a polling period above its bound": ({"pollingPeriod": "5m1s"}, "spec.pollingPeriod", "from 1s to 5m"),
    "a latency age of nothing": ({"latency": {"maxAge": "0s"}}, "spec.latency.maxAge", "from 1ms to 60s"),
    "a latency age above its bound": ({"latency": {"maxAge": "2m"}}, "spec.latency.maxAge", "from 1ms to 60s"),
    "a cache lifetime above its bound": ({"workloadCacheTTL": "2h"}, "spec.workloadCacheTTL", "from 1s to 1h"),
    "a cache lifetime shorter than a report's period": (
        {"pollingPeriod": "10s", "reportEvery": 6, "workloadCacheTTL": "59s"},
        "spec.workloadCacheTTL",
        "59s is shorter than pollingPeriod x reportEvery = 1m",
    ),
    "reports rarer than a cache lifetime can be": (
        {"pollingPeriod": "5m", "reportEvery": 13},
        "spec.reportEvery",
        "pollingPeriod x reportEvery = 1h5m is longer than 1h",
    ),
    "reportEvery of nothing": ({"reportEvery": 0}, "spec.reportEvery", "0 is too small: at least 1"),
    "reportEvery above its bound": ({"reportEvery": 101}, "spec.reportEvery", "101 is too large: at most 100"),
    "reportEvery as text": ({"reportEvery": "2"}, "spec.reportEvery", '"2" is not a whole number'),
    "reportEvery as a truth value": ({"reportEvery": True}, "spec.reportEvery", "true is not a whole number"),
    "maxFlows below its bound": ({"maxFlows": 1023}, "spec.maxFlows", "at least 1024"),
    "maxFlows above its bound": ({"maxFlows": 4194305}, "spec.maxFlows", "at most 4194304"),
    "maxFlows with a fraction": ({"maxFlows": 2048.5}, "spec.maxFlows", "2048.5 is not a whole number"),
    "maxRows above its bound": ({"maxRows": 1_000_001}, "spec.maxRows", "at most 1000000"),
    "paused as a number": ({"paused": 1}, "spec.paused", "1 is neither true nor false"),
    "interfaces as text": ({"interfaces": "auto"}, "spec.interfaces", 'is "auto", not a mapping'),
    "a list where one value stands": ({"pollingPeriod": ["5s"]}, "spec.pollingPeriod", "a list is not a duration"),
    "one value where a list stands": ({"sinks": {"stdout": {}}}, "spec.sinks", "is a mapping, not a list"),
    "a prefix longer than the address": (
        rule(cidrs=["10.0.0.0/8", "10.0.0.0/33"]),
        "spec.blacklist[0].cidrs[1]",
        '"10.0.0.0/33" is not a CIDR or an address, such as 10.0.0.0/8, fd00::/8 or 10.1.2.3',
    ),
    "a netmask for a prefix": (rule(cidrs=["10.0.0.0/255.0.0.0"]), "spec.blacklist[0].cidrs[0]", "is not a CIDR"),
    "a prefix that is not there": (rule(cidrs=["10.0.0.0/"]), "spec.blacklist[0].cidrs[0]", "is not a CIDR"),
    "IPv4 mapped into IPv6": (rule(cidrs=["::ffff:10.0.0.1"]), "spec.blacklist[0].cidrs[0]", "is not a CIDR"),
    "an address with a zone": (rule(cidrs=["fe80::1%eth0"]), "spec.blacklist[0].cidrs[0]", "is not a CIDR"),
    "an address as a number": (rule(cidrs=[10]), "spec.blacklist[0].cidrs[0]", "10 is not a CIDR"),
    "a bad CIDR of the peer": (rule(peer={"cidrs": ["x"]}), "spec.blacklist[0].peer.cidrs[0]", "is not a CIDR"),
    "a bad CIDR of an external network": (
        {"externalNetworks": [{"name": "office", "cidrs": ["x/8"]}]},
        "spec.externalNetworks[0].cidrs[0]",
        "is not a CIDR",
    ),
    "port 0": (rule(ports=[0]), "spec.blacklist[0].ports[0]", "0 is not a port 1-65535"),
    "port 65536": (rule(ports=[80, 65536]), "spec.blacklist[0].ports[1]", "65536 is not a port"),
    "a range that ends before it begins": (rule(ports=["9-8"]), "spec.blacklist[0].ports[0]", '"9-8" is not a port'),
    "a range beyond the last port": (rule(ports=["1-65536"]), "spec.blacklist[0].ports[0]", "is not a port"),
    "a range with blanks": (rule(ports=["1 - 2"]), "spec.blacklist[0].ports[0]", "is not a port"),
    "a port that is a truth value": (rule(ports=[True]), "spec.blacklist[0].ports[0]", "true is not a port"),
    "a protocol in lower case": (rule(protocols=["tcp"]), "spec.blacklist[0].protocols[0]", "did you mean TCP?"),
    "a protocol named twice": (rule(protocols=["TCP", "TCP"]), "spec.blacklist[0].protocols[1]", "in the list already"),
    "a direction that is none": (rule(direction="In"), "spec.blacklist[0].direction", "is not one of Egress, Ingress"),
    "a service without its namespace": (rule(services=["web"]), "spec.blacklist[0].services[0]", "shop/checkout"),
    "a namespace with a capital": (
        rule(namespaces=["Shop"]),
        "spec.blacklist[0].namespaces[0]",
        '"Shop" is not a name',
    ),
    "a namespace that YAML takes for a number": (
        rule(namespaces=[2024]),
        "spec.blacklist[0].namespaces[0]",
        "2024 is not text; put it in quotes",
    ),
    "an empty list in a rule": (
        rule(namespaces=[]),
        "spec.blacklist[0].namespaces",
        "list at least one or leave it out",
    ),
    "a rule without a name": ({"blacklist": [{"ports": [80]}]}, "spec.blacklist[0].name", "is missing"),
    "a rule's name too long": (
        {"blacklist": [{"name": "r" * 64}]},
        "spec.blacklist[0].name",
        "is too long: at most 63 characters",
    ),
    "two rules of one name": (
        {"whitelist": [{"name": "a"}, {"name": "b"}, {"name": "a"}]},
        "spec.whitelist[2].name",
        '"a" is the name of entry [0] already',
    ),
    "too many rules": (
        {"whitelist": [{"name": f"r{i}"} for i in range(65)]},
        "spec.whitelist",
        "has 65 entries: at most 64",
    ),
    "too many CIDRs": (rule(cidrs=["10.0.0.1"] * 1001), "spec.blacklist[0].cidrs", "has 1001 entries: at most 1000"),
    "In without values": (
        rule(podSelector={"matchExpressions": [{"key": "app", "operator": "In"}]}),
        "spec.blacklist[0].podSelector.matchExpressions[0].values",
        "operator In needs at least one",
    ),
    "Exists with values": (
        rule(podSelector={"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["a"]}]}),
        "spec.blacklist[0].podSelector.matchExpressions[0].values",
        "Exists takes none",
    ),
    "a label's key with a blank": (
        {"nodes": {"nodeSelector": {"a b": "c"}}},
        'spec.nodes.nodeSelector["a b"]',
        "is not a label's key",
    ),
    "a label's value that YAML takes for a truth value": (
        {"nodes": {"nodeSelector": {"gpu": True}}},
        "spec.nodes.nodeSelector.gpu",
        "true is not text; put it in quotes",
    ),
    "an unknown network plug-in": ({"interfaces": {"cni": "calcio"}}, "spec.interfaces.cni", "did you mean calico?"),
    "a plug-in beside a pattern": (
        {"interfaces": {"cni": "calico", "vethPattern": "cali.*"}},
        "spec.interfaces.vethPattern",
        "cannot stand beside cni: calico",
    ),
    "a pattern that is no regular expression": (
        {"interfaces": {"vethPattern": "cali("}},
        "spec.interfaces.vethPattern",
        '"cali(" is not a regular expression',
    ),
    "a pattern that looks ahead": (
        {"interfaces": {"vethPattern": "(?!lo).*"}},
        "spec.interfaces.vethPattern",
        "has a look-ahead",
    ),
    "a pattern too long": ({"interfaces": {"vethPattern": "a" * 65}}, "spec.interfaces.vethPattern", "at most 64"),
    "an empty pattern": ({"interfaces": {"vethPattern": ""}}, "spec.interfaces.vethPattern", "is empty"),
    "an interface's name of 16 characters": (
        {"interfaces": {"hostInterfaces": ["e" * 16]}},
        "spec.interfaces.hostInterfaces[0]",
        "at most 15 characters",
    ),
    "an interface's name of 15 characters and 16 bytes": (
        {"interfaces": {"hostInterfaces": ["ü" + "e" * 14]}},
        "spec.interfaces.hostInterfaces[0]",
        "at most 15 characters",
    ),
    "an interface's name with a slash": (
        {"interfaces": {"hostInterfaces": ["eth0/1"]}},
        "spec.interfaces.hostInterfaces[0]",
        "is not an interface's name",
    ),
    "a sink of no kind": (
        {"sinks": [{"name": "s"}]},
        "spec.sinks[0]",
        "needs one of prometheus: {}, otlp, http, stdout",
    ),
    "a sink whose kind is empty": ({"sinks": [{"name": "s", "stdout": None}]}, "spec.sinks[0]", "stdout: {}"),
    "a sink of two kinds": (
        {"sinks": [{"name": "s", "stdout": {}, "prometheus": {}}]},
        "spec.sinks[0]",
        "has prometheus and stdout",
    ),
    "two sinks of one name": (
        {"sinks": [{"name": "s", "stdout": {}}, {"name": "s", "prometheus": {}}]},
        "spec.sinks[1].name",
        '"s" is the name of entry [0] already',
    ),
    "two sinks on one standard output": (
        {"sinks": [{"name": "a", "stdout": {}}, {"name": "b", "stdout": {}}]},
        "spec.sinks[1]",
        "is a second stdout sink",
    ),
    "too many sinks": (
        {"sinks": [{"name": f"s{i}", "http": {"url": "http://a"}} for i in range(17)]},
        "spec.sinks",
        "has 17 entries: at most 16",
    ),
    "a URL of another scheme": (
        {"sinks": [{"name": "s", "http": {"url": "ftp://a/b"}}]},
        "spec.sinks[0].http.url",
        '"ftp://a/b" is not a URL such as https://',
    ),
    "a URL with a password": (
        {"sinks": [{"name": "s", "http": {"url": "https://me:secret@host/"}}]},
        "spec.sinks[0].http.url",
        "no user or password",
    ),
    "a URL with an impossible port": (
        {"sinks": [{"name": "s", "otlp": {"endpoint": "http://host:99999"}}]},
        "spec.sinks[0].otlp.endpoint",
        "is not a URL",
    ),
    "an OTLP transport that is none": (
        {"sinks": [{"name": "s", "otlp": {"endpoint": "http://host", "protocol": "http"}}]},
        "spec.sinks[0].otlp.protocol",
        '"http" is not one of grpc, http/protobuf',
    ),
    "a sink without its URL": ({"sinks": [{"name": "s", "http": {}}]}, "spec.sinks[0].http.url", "is missing"),
}


@pytest.mark.parametrize(("spec", "field", "words"), WRONG_SPECS.values(), ids=WRONG_SPECS)
def test_a_wrong_spec_is_refused_by_one_line(spec: object, field: str, words: str) -> None:
    [(found_field, message)] = problems_of(document(spec))
    assert found_field == field
    assert words in message
    assert "\n" not in message


HEAD = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\n"

WRONG_TEXTS: dict[str, tuple[str, str]] = {
    "a key given twice": (
        HEAD + "metadata: {name: a}\nspec:\n  maxFlows: 2048\n  maxFlows: 4096\n",
        "m:6: spec.maxFlows: is given in line 5 already",
    ),
    "a key given twice in one line": (
        HEAD + "metadata: {name: a, name: b}\nspec: {}\n",
        "m:3: metadata.name: is given",
    ),
    "another kind": (
        "apiVersion: podwire.dev/v1alpha1\nkind: Monitor\nspec: {x: y}\n",
        'm:2: kind: "Monitor" is not one of NetworkMonitor, AgentPool',
    ),
    "another version": (
        "apiVersion: podwire.dev/v2\nkind: NetworkMonitor\n",
        'm:1: apiVersion: "podwire.dev/v2" is not',
    ),
    "no kind": ("apiVersion: podwire.dev/v1alpha1\nspec: {}\n", "m:1: kind: is missing"),
    "no spec": (HEAD + "metadata: {name: a}\n", "m:1: spec: is missing"),
    "no name": (HEAD + "metadata: {}\nspec: {}\n", "m:3: metadata.name: is missing"),
    "a name too long": (HEAD + f"metadata: {{name: {'a' * 41}}}\nspec: {{}}\n", "is too long: at most 40 characters"),
    "a name with a capital": (HEAD + "metadata: {name: Shop}\nspec: {}\n", 'm:3: metadata.name: "Shop" is not a name'),
    "a uid that could leave its directory": (HEAD + "metadata: {name: a, uid: ../b}\nspec: {}\n", "is not a UUID"),
    "an unknown field at the top": (
        HEAD + "metadata: {name: a}\nspecs: {}\nspec: {}\n",
        "m:4: specs: unknown field (did",
    ),
    "a key that is a number": (
        HEAD + "metadata: {name: a}\nspec:\n  1: a\n",
        "m:4: spec: has a key that is not text, 1",
    ),
    "no document": ("# nothing\n", "m: holds no resource"),
    "a document that is a word": ("hello\n", 'm:1: is "hello", not a mapping'),
    "brackets that never close": ("a: [1, 2\n", "is not YAML: "),
    "a tab for indentation": ("a:\n\tb: c\n", "m:2: is not YAML: "),
    "a tag of Python's": (
        HEAD + "metadata: {name: a}\nspec: !!python/object:os.system {}\n",
        "m:4: spec: has the tag !!py",
    ),
    "a character that YAML forbids": ("a: b\nc: \x00\n", "m:2: has a character that YAML does not allow"),
    "brackets a hundred thousand deep": ("[" * 100_000, "m: is nested too deeply"),
    "an alias without its anchor": ("a: *b\n", "m:1: is not YAML: found undefined alias"),
    "the same name in two documents": (
        (HEAD + "metadata: {name: a}\nspec: {}\n---\n") * 2,
        'm:8: metadata.name: "a" is the name of the NetworkMonitor in line 3 already',
    ),
}


@pytest.mark.parametrize(("text", "line"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_wrong_text_is_refused_with_its_line(text: str, line: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        load_documents(text, "m")
    assert len(refused.value.problems) == 1
    assert line in str(refused.value)


def test_every_problem_of_every_document_is_told_in_the_order_of_lines() -> None:
    text = (
        HEAD
        + "metadata: {name: a}\nspec:\n  paused: 3\n  blacklist:\n    - name: x\n      cidrs:\n        - 10.0.0.0/8\n"
        "        - 10.0.0.0/33\n  colour: red\n---\n" + HEAD + "metadata: {name: B}\nspec: {}\n"
    )
    with pytest.raises(InvalidResource) as refused:
        load_documents(text, "monitor.yaml")
    assert [(problem.line, problem.field) for problem in refused.value.problems] == [
        (5, "spec.paused"),
        (10, "spec.blacklist[0].cidrs[1]"),
        (11, "spec.colour"),
        (15, "metadata.name"),
    ]
    assert refused.value.summary(3).splitlines() == [
        "monitor.yaml:5: spec.paused: 3 is neither true nor false",
        str(refused.value.problems[1]),
        "... and 2 more; podwire-agent validate monitor.yaml shows all",
    ]
    assert refused.value.summary(4) == str(refused.value)


def test_a_merged_key_is_told_at_the_line_where_it_stands() -> None:
    text = HEAD + "metadata: {name: a}\nspec:\n  latency: &l\n    maxAge: 5\n  loss:\n    <<: *l\n"
    with pytest.raises(InvalidResource) as refused:
        load_documents(text, "m")
    assert [(problem.line, problem.field) for problem in refused.value.problems] == [
        (6, "spec.latency.maxAge"),
        (6, "spec.loss.maxAge"),
    ]


OUR_WORDS_ONLY = re.compile("Input|valid|pydantic|cannot stand here")
"""What the validator would say, and what is said of an error for which there are no words yet."""


def test_no_wording_of_the_validator_leaks() -> None:
    for spec, _, _ in WRONG_SPECS.values():
        for field, message in problems_of(document(spec)):
            assert not OUR_WORDS_ONLY.search(message), field


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in `value`, at any depth."""
    yield path
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, step))


def replaced(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    """`value` with `new` at `path`."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


FULL = yaml.safe_load((Path(__file__).parents[3] / "manifests/samples/full.yaml").read_text())
NAMES = st.sampled_from(sorted({step for path in places(FULL) for step in path if isinstance(step, str)}))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1/-.:é\n", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(places(FULL))), ANYTHING)
def test_whatever_stands_anywhere_it_loads_or_is_refused_in_our_words(path: tuple[str | int, ...], new: object) -> None:
    try:
        load_documents(yaml.safe_dump(replaced(FULL, path, new)), "m")
    except InvalidResource as refused:
        for problem in refused.problems:
            assert len(str(problem).splitlines()) == 1
            assert not OUR_WORDS_ONLY.search(problem.message)


def test_a_path_is_written_as_people_write_it() -> None:
    path = ("spec", "nodes", "nodeSelector", "kubernetes.io/os", 0, "a\nb")
    assert field_name(path) == r'spec.nodes.nodeSelector["kubernetes.io/os"][0]["a\nb"]'

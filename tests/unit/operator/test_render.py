from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent import cli
from podwire_agent.settings import DEFAULT_METRICS, MetricsAuth
from podwire_agent.tls import DEFAULT as DEFAULT_TLS_DIR
from podwire_api.names import AGENT_TLS_SECRET
from podwire_api.selection import selects
from podwire_operator.objects import Pool
from podwire_operator.placement import place
from podwire_operator.render import MAX_TERMS, Rendered, render
from tests.unit.operator.made import monitor, node, pool

EVERY: dict[str, str] = {}


def rendered(own: Pool, selectors: list[dict[str, str]], elders: list[dict[str, str]] | None = None) -> Rendered:
    older = [pool(f"elder-{number}", spec={"nodeSelector": each}) for number, each in enumerate(elders or [])]
    distinct = {frozenset(each.items()) for each in selectors}
    return render(own, older, distinct, namespace="podwire-system", default_image="localhost/podwire-agent:1")


def pod(own: Pool, selectors: list[dict[str, str]] | None = None) -> Any:
    made = rendered(own, [EVERY] if selectors is None else selectors).daemon_set
    assert made is not None
    return made["spec"]["template"]["spec"]


def terms(made: Rendered) -> list[str]:
    """As sentences: `zone in a, disk not in ssd`."""
    assert made.daemon_set is not None
    affinity = made.daemon_set["spec"]["template"]["spec"].get("affinity")
    if affinity is None:
        return []
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    words = {"In": "in", "NotIn": "not in"}
    return [
        ", ".join(f"{each['key']} {words[each['operator']]} {each['values'][0]}" for each in term["matchExpressions"])
        for term in required
    ]


@pytest.mark.parametrize(
    ("own", "selectors", "elders", "expected"),
    [
        pytest.param({}, [{}], [], [], id="one monitor of every node: no affinity"),
        pytest.param({}, [{"zone": "a"}], [], ["zone in a"], id="one monitor of a zone"),
        pytest.param(
            {}, [{"zone": "b"}, {"zone": "a"}], [], ["zone in a", "zone in b"], id="two monitors: either selector"
        ),
        pytest.param({}, [{"zone": "a"}, {}], [], [], id="one of every node beside one of a zone: every node"),
        pytest.param(
            {},
            [{"zone": "a"}, {"zone": "a", "disk": "ssd"}],
            [],
            ["zone in a"],
            id="a selector within another one adds nothing",
        ),
        pytest.param({"zone": "a"}, [{"zone": "a"}], [], [], id="what the pool asks already is not asked again"),
        pytest.param(
            {"zone": "a"},
            [{"zone": "b"}, {"disk": "ssd"}],
            [],
            ["disk in ssd"],
            id="a monitor that no node of the pool can have is left out",
        ),
        pytest.param(
            {"zone": "a"},
            [{}],
            [{"gpu": "yes"}],
            ["gpu not in yes"],
            id="an elder pool's nodes are left out, also those to come",
        ),
        pytest.param(
            {},
            [{}],
            [{"gpu": "yes", "zone": "a"}],
            ["gpu not in yes", "zone not in a"],
            id="a node that lacks one of an elder pool's labels is not its",
        ),
        pytest.param(
            {"zone": "a"}, [{}], [{"zone": "b"}], [], id="an elder pool that shares no node with it changes nothing"
        ),
        pytest.param(
            {},
            [{"gpu": "yes"}, {"disk": "ssd"}],
            [{"gpu": "yes"}],
            ["disk in ssd, gpu not in yes"],
            id="a monitor that selects only an elder pool's nodes is left out",
        ),
    ],
)
def test_agents_run_where_the_pool_and_a_monitor_and_no_elder_pool_select(
    own: dict[str, str], selectors: list[dict[str, str]], elders: list[dict[str, str]], expected: list[str]
) -> None:
    assert terms(rendered(pool(spec={"nodeSelector": own}), selectors, elders)) == expected


@pytest.mark.parametrize(
    ("own", "selectors", "elders"),
    [
        pytest.param({}, [], [], id="there is no monitor"),
        pytest.param({"zone": "a"}, [{"zone": "b"}], [], id="the monitors select other nodes"),
        pytest.param({"zone": "a"}, [{}], [{}], id="an elder pool has every node"),
        pytest.param({"zone": "a", "gpu": "yes"}, [{}], [{"gpu": "yes"}], id="an elder pool has all of its nodes"),
        pytest.param({}, [{"gpu": "yes"}], [{"gpu": "yes"}], id="the monitors select an elder pool's nodes alone"),
    ],
)
def test_there_is_no_daemonset_where_no_agent_could_run(
    own: dict[str, str], selectors: list[dict[str, str]], elders: list[dict[str, str]]
) -> None:
    assert rendered(pool(spec={"nodeSelector": own}), selectors, elders) == Rendered(None, unmatched=True)


LABELS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("ab"), max_size=3)


@given(st.lists(LABELS, min_size=1, max_size=3), st.lists(LABELS, max_size=3))
def test_the_scheduler_and_the_placement_agree(pools: list[dict[str, str]], selectors: list[dict[str, str]]) -> None:
    """A node matches exactly one pool's DaemonSet if a monitor selects it and a pool has it, and none else."""
    made = [
        pool(f"p{number}", spec={"nodeSelector": each}, created=f"2026-01-01T00:00:0{number}Z")
        for number, each in enumerate(pools)
    ]
    monitors = [monitor(f"m{number}", spec={"nodes": {"nodeSelector": each}}) for number, each in enumerate(selectors)]
    labels = [
        {key: value for key, value in zip("xyz", values, strict=True) if value}
        for values in itertools.product(("", "a", "b"), repeat=3)
    ]
    nodes = [node(f"n{number}", labels=each) for number, each in enumerate(labels)]
    placement = place(nodes, made, monitors)
    distinct = {frozenset(each.items()) for each in selectors}
    for each in nodes:
        matching = []
        for index, own in enumerate(made):
            result = render(own, made[:index], distinct, namespace="n", default_image="i")
            if result.daemon_set is not None and schedules(result.daemon_set, each.labels):
                matching.append(own.meta.name)
        selected = any(selects(selector, each.labels) for selector in selectors)
        owner = placement.owner.get(each.meta.name)
        assert matching == ([owner] if owner and selected else [])


def schedules(daemon_set: dict[str, Any], labels: Any) -> bool:
    """As the scheduler reads node selector and affinity."""
    spec = daemon_set["spec"]["template"]["spec"]
    if not selects(spec.get("nodeSelector", {}), labels):
        return False
    if "affinity" not in spec:
        return True
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return any(
        all((labels.get(e["key"]) in e["values"]) == (e["operator"] == "In") for e in term["matchExpressions"])
        for term in required["nodeSelectorTerms"]
    )


def test_too_many_combinations_of_selectors_are_refused_rather_than_listed() -> None:
    elders = [{f"a{number}": "1", f"b{number}": "1"} for number in range(8)]
    assert MAX_TERMS < 2**8
    assert rendered(pool(), [EVERY], elders).too_many_terms


def test_agents_roll_for_nothing_but_a_change() -> None:
    selectors = [{"zone": "b"}, {"zone": "a"}, {"disk": "ssd", "zone": "c"}]
    assert rendered(pool(), selectors) == rendered(pool(), list(reversed(selectors)))


def test_an_agent_is_given_what_it_needs_and_no_more() -> None:
    spec = pod(pool("blue", spec={"nodeSelector": {"zone": "a"}, "logLevel": "debug"}))
    (container,) = spec["containers"]
    command = "podwire-agent run --node $(NODE_NAME) --pool blue --pod $(POD_NAME) --namespace $(POD_NAMESPACE)"
    options = "--bpffs /run/podwire-bpffs --log-level debug --metrics [::]:9435 --metrics-auth kubernetes"
    assert " ".join(container["command"]) == f"{command} {options} --exchange-port 9436"
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert "privileged" not in security
    assert spec["hostNetwork"]
    assert not {"hostPID", "hostIPC"} & spec.keys()
    of_the_node = {each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
    assert of_the_node == {"/run/podwire", "/sys/fs/bpf"}
    assert len(spec["volumes"]) == 3
    assert not any(each["mountPath"].startswith("/sys") for each in container["volumeMounts"])
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["host"] == "127.0.0.1"
    assert spec["nodeSelector"] == {"zone": "a"}
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_the_agents_certificate_is_mounted_to_be_read_and_may_come_later() -> None:
    spec = pod(pool())
    (volume,) = (each for each in spec["volumes"] if "secret" in each)
    assert volume["secret"] == {"secretName": AGENT_TLS_SECRET, "defaultMode": 0o400, "optional": True}
    (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == (str(DEFAULT_TLS_DIR), True)


def test_the_ports_are_the_pools() -> None:
    (container,) = pod(pool(spec={"metrics": {"port": 19435, "auth": "none"}, "exchange": {"port": 19436}}))[
        "containers"
    ]
    options = "--metrics [::]:19435 --metrics-auth none --exchange-port 19436"
    assert " ".join(container["command"]).endswith(options)
    # The scheduler keeps pods apart that want one port of a node; the name is what Service and PodMonitor know.
    assert container["ports"] == [
        {"name": "metrics", "protocol": "TCP", "containerPort": 19435, "hostPort": 19435},
        {"name": "exchange", "protocol": "TCP", "containerPort": 19436, "hostPort": 19436},
    ]


def test_the_agents_command_takes_what_the_daemonset_gives_it() -> None:
    (container,) = pod(pool())["containers"]
    options = cli._parser().parse_args(container["command"][1:])
    settings = cli._settings(options)
    assert settings.metrics == "[::]:9435" == DEFAULT_METRICS
    assert settings.metrics_auth is MetricsAuth.KUBERNETES
    assert options.exchange_port == 9436


def test_a_pools_image_and_resources_are_its_own() -> None:
    own = pool(spec={"image": "registry.example/agent:2", "resources": {"requests": {"cpu": "1"}, "limits": {}}})
    (container,) = pod(own)["containers"]
    assert container["image"] == "registry.example/agent:2"
    assert container["resources"] == {"requests": {"cpu": "1"}, "limits": {}}
    assert pod(pool())["containers"][0]["image"] == "localhost/podwire-agent:1"


def test_the_daemonset_is_owned_by_its_pool_and_does_not_hold_it_up() -> None:
    made = rendered(pool("blue", uid="u1"), [EVERY]).daemon_set
    assert made is not None
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("AgentPool", "blue", "u1")
    assert owner["controller"]
    assert not owner["blockOwnerDeletion"]
    assert made["metadata"]["name"] == "podwire-agent-blue"
    selector = made["spec"]["selector"]["matchLabels"]
    assert selector.items() <= made["spec"]["template"]["metadata"]["labels"].items()

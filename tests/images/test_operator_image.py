"""The operator's image as its Deployment runs it: a user of no privileges, no capability, a read-only root."""

from __future__ import annotations

from dataclasses import replace

from tests.images.container import OPERATOR, Container, Image, Node
from tests.kernel.netns import eventually


def test_outside_a_cluster_it_says_what_it_misses_and_ends(operator_image: Image, node: Node) -> None:
    with Container(operator_image, node, "run", "--agent-image", "localhost/none:1", pod=OPERATOR) as container:
        assert container.wait(30) not in (0, None)
        said = container.stdout + container.stderr
    assert "--kubeconfig" in said, said
    assert "Traceback" not in said, said


def test_it_needs_no_privilege_and_no_place_to_write(operator_image: Image, node: Node) -> None:
    script = "import getpass, time; print(getpass.getuser()); time.sleep(60)"  # kopf asks so, too
    waiting = {**operator_image.config, "Entrypoint": ["python3", "-c", script]}
    waiting["Env"] = [*operator_image.config["Env"], "PYTHONUNBUFFERED=1"]
    with Container(replace(operator_image, config=waiting), node, pod=OPERATOR) as container:
        eventually(lambda: container.stdout, "it has started", 30.0)
        status = container.status()
        assert container.stdout.split() == ["podwire-operator"]
        assert container.mounts()["/"].split(",")[0] == "ro"
    assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    user, _, group = operator_image.config["User"].partition(":")
    assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({user}, {group})
    assert "0" not in (user, group)


def test_what_is_the_agents_is_not_in_it(operator_image: Image) -> None:
    assert {"podwire_operator", "podwire_api", "kopf", "kubernetes"} <= operator_image.packages()
    assert not operator_image.packages() & {"podwire_agent", "numpy", "pyroute2", "msgspec"}
    assert "podwire-agent" not in operator_image.commands()

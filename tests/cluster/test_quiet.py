"""What Podwire asks of the API server: nothing but a Lease when idle, and no storm with many monitors."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from podwire_api.names import NAMESPACE
from tests.cluster.installation import Installation, document
from tests.cluster.polling import eventually

OPERATOR = f"system:serviceaccount:{NAMESPACE}:podwire-operator"
AGENT = f"system:serviceaccount:{NAMESPACE}:podwire-agent"
IDLE_S = 60.0
MANY = 200


def writes(installed: Installation, user: str, since: datetime) -> Counter[str]:
    """By what was written."""
    return Counter(
        f"{each.verb} {each.resource}/{each.subresource}".rstrip("/")
        for each in installed.cluster.audit()
        if each.user == user and each.writes and each.time >= since
    )


def test_an_idle_operator_writes_only_its_lease(installed: Installation) -> None:
    with installed.monitor("idle", interfaces={"vethPattern": "none.*"}):  # there is nothing new to tell of
        time.sleep(45)  # what came before has been told by then
        since = datetime.now(UTC)
        time.sleep(IDLE_S)
        found = writes(installed, OPERATOR, since)
        assert set(found) == {"update leases"}, found
        assert found["update leases"] <= IDLE_S / 2 + 2
        agents = writes(installed, AGENT, since)
        assert set(agents) == {"patch agentnodes/status"}, agents
        assert agents["patch agentnodes/status"] <= 2 * (IDLE_S / 27 + 1), agents


def test_many_monitors_are_no_storm(installed: Installation) -> None:
    since = datetime.now(UTC)
    documents = [document(f"crowd-{number}", interfaces={"vethPattern": "none.*"}) for number in range(MANY)]
    try:
        installed.cluster.apply(*documents)

        def told() -> bool:
            found = installed.cluster.get("nmon")["items"]
            reasons = Counter(
                next((c["reason"] for c in each["status"]["conditions"] if c["type"] == "Ready"), "") for each in found
            )
            return reasons == {"Attached": 8, "TooManyMonitors": MANY - 8}

        eventually(told, "eight run and the others wait", 120, every_s=1)
        made = writes(installed, OPERATOR, since)
        print(made)
        assert made["patch networkmonitors/status"] <= 2.5 * MANY, made
        time.sleep(20)
        settled = datetime.now(UTC)
        time.sleep(30)
        later = writes(installed, OPERATOR, settled)
        print(later)
        assert later.total() - later["update leases"] <= 5, later
        assert settled - since < timedelta(minutes=5)
    finally:
        installed.cluster.kubectl("delete", "nmon", *(f"crowd-{number}" for number in range(MANY)), timeout_s=90)
        eventually(lambda: not installed.agents(), "no agent is left without a monitor", 90)

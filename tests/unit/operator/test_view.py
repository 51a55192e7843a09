from __future__ import annotations

import pytest

from podwire_operator import view as view_module
from podwire_operator.objects import Kind
from podwire_operator.work import Key, Task
from tests.unit.operator.made import Clock, agent, daemon_set, entry, monitor, node, pool, view

SHOP, CART = Key(Task.MONITOR, "shop"), Key(Task.MONITOR, "cart")
DEFAULT = Key(Task.POOL, "default")


def test_a_new_monitor_is_looked_at_and_so_are_all_others_and_the_pools() -> None:
    seen = view(monitor("cart"), pool())
    assert seen.put(Kind.MONITOR, monitor()) == {SHOP, CART, DEFAULT}


def test_an_edit_of_a_monitor_concerns_it_alone_unless_it_selects_other_nodes() -> None:
    seen = view(monitor("cart"), monitor(), pool())
    assert seen.put(Kind.MONITOR, monitor(spec={"paused": True})) == {SHOP}
    elsewhere = monitor(spec={"nodes": {"nodeSelector": {"zone": "a"}}})
    assert seen.put(Kind.MONITOR, elsewhere) == {SHOP, CART, DEFAULT}


def test_an_agents_word_concerns_the_monitors_that_it_says_something_new_of() -> None:
    seen = view(monitor(), monitor("cart"), pool(), agent("n1", entry("shop"), entry("cart")))
    assert seen.put(Kind.AGENT_NODE, agent("n1", entry("shop"), entry("cart"), heartbeat="t2")) == set()
    assert seen.put(Kind.AGENT_NODE, agent("n1", entry("shop", pods=3), entry("cart"))) == {SHOP}
    assert seen.put(Kind.AGENT_NODE, agent("n1", entry("shop", pods=3))) == {CART, DEFAULT}
    assert seen.put(Kind.AGENT_NODE, agent("n1", entry("shop", pods=3), detached=True)) == {SHOP, CART, DEFAULT}


def test_a_nodes_heartbeat_is_no_news_and_its_end_is() -> None:
    seen = view(monitor(), pool(), node("n1"))
    assert seen.put(Kind.NODE, node("n1")) == set()
    assert seen.put(Kind.NODE, node("n1", ready=False)) == {SHOP, DEFAULT}
    assert seen.put(Kind.NODE, node("n1", ready=False, labels={"zone": "a"})) == {SHOP, DEFAULT}
    gone = seen.nodes["n1"].meta
    assert seen.drop(Kind.NODE, "n1", gone.uid, gone.version + 1) == {SHOP, DEFAULT}


def test_a_daemonset_concerns_its_pool_also_when_there_is_none() -> None:
    seen = view()
    assert seen.put(Kind.DAEMON_SET, daemon_set("gone")) == {Key(Task.POOL, "gone")}
    assert set(seen.every_key()) == {Key(Task.POOL, "gone")}


def test_an_older_version_of_an_object_changes_nothing() -> None:
    old, new = monitor(), monitor(spec={"paused": True})
    seen = view(new)
    assert seen.put(Kind.MONITOR, old) == set()
    assert seen.monitors["shop"].paused


def test_a_list_takes_away_what_is_not_in_it_and_brings_nothing_back() -> None:
    stays, goes = monitor("stays"), monitor("goes")
    seen = view(stays, goes)
    listed_at = goes.meta.version
    came_later = monitor("later")
    seen.put(Kind.MONITOR, came_later)
    assert Key(Task.MONITOR, "stays") in seen.relist(Kind.MONITOR, [stays], listed_at)
    assert seen.monitors.keys() == {"stays", "later"}
    # A list from before a deletion that has been told of already.
    seen.drop(Kind.MONITOR, "later", came_later.meta.uid, came_later.meta.version + 10)
    seen.relist(Kind.MONITOR, [stays, came_later], came_later.meta.version)
    assert seen.monitors.keys() == {"stays"}


def test_an_object_that_only_lost_its_label_for_a_while_comes_back() -> None:
    seen = view(daemon_set())
    former = seen.daemon_sets["podwire-agent-default"].meta
    seen.drop(Kind.DAEMON_SET, former.name, former.uid, former.version)
    seen.put(Kind.DAEMON_SET, daemon_set())
    assert seen.daemon_sets.keys() == {"podwire-agent-default"}


def test_an_object_that_is_made_anew_is_another_one() -> None:
    old = monitor(uid="u1")
    seen = view(old)
    seen.put(Kind.MONITOR, monitor(uid="u2"))
    assert seen.drop(Kind.MONITOR, "shop", "u1", 10**9) == set()
    assert seen.monitors["shop"].meta.uid == "u2"


def test_what_is_remembered_of_what_is_gone_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_GRAVES", 5)
    seen = view()
    for number in range(20):
        seen.drop(Kind.NODE, f"n{number}", f"u{number}", number)
    assert len(seen._graves) == 5


def test_the_interval_of_agents_grows_with_the_cluster() -> None:
    clock = Clock()
    seen = view(*(node(f"n{number}") for number in range(2000)), agent("n1"), clock=clock)
    assert seen.figures_s == 100
    clock.now += 299
    assert seen.silent_s("n1") is None
    clock.now += 2
    assert seen.silent_s("n1") == pytest.approx(301)
    assert seen.silent_s("unheard-of") is None

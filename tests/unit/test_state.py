from __future__ import annotations

from pathlib import Path

import pytest

from podwire_agent.errors import ResourceError, StateError
from podwire_agent.model import MonitorUid
from podwire_agent.state import StateDirectory

ONE, TWO = MonitorUid("one"), MonitorUid("two")


def test_a_second_agent_on_the_same_directory_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with (
        StateDirectory(tmp_path / "state"),
        pytest.raises(StateError, match="another agent uses"),
        StateDirectory(tmp_path / "state"),
    ):
        pass
    with StateDirectory(tmp_path / "state"):
        pass


def test_a_monitor_keeps_its_slot_and_a_freed_one_is_given_again(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        assert (state.slot(ONE), state.slot(TWO), state.slot(ONE)) == (1, 2, 1)
    with StateDirectory(tmp_path) as state:
        assert (state.slot(TWO), state.slot(ONE)) == (2, 1)
        state.forget(ONE)
        assert state.slot(MonitorUid("three")) == 1


def test_a_ninth_monitor_is_refused(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        for number in range(8):
            state.slot(MonitorUid(f"{number}"))
        with pytest.raises(ResourceError, match="no place for one more monitor: 8"):
            state.slot(MonitorUid("ninth"))


def test_nothing_of_a_forgotten_monitor_is_left_but_the_lock(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        state.slot(ONE)
        state.checkpoint(ONE).touch()
        state.checkpoint(ONE).with_name(f"{state.checkpoint(ONE).name}.tmp").touch()
        state.layout(ONE, "0123").touch()
        state.forget(ONE)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_state_of_another_network_namespace_is_refused_but_for_removing_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.touch()
    there.touch()
    with StateDirectory(tmp_path / "state", namespace=here) as state:
        state.slot(ONE)
    with (
        pytest.raises(StateError, match="another network namespace"),
        StateDirectory(tmp_path / "state", namespace=there),
    ):
        pass
    with StateDirectory(tmp_path / "state", namespace=there, any_namespace=True) as state:
        state.forget(ONE)


def test_damaged_slots_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "slots").write_text("{")
    with pytest.raises(StateError, match="podwire-agent cleanup"), StateDirectory(tmp_path) as state:
        state.slot(ONE)

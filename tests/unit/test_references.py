"""Where there is no cluster, files are the ConfigMaps that rules name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from podwire_agent.core.networks import packed
from podwire_agent.errors import ResourceError
from podwire_agent.references import ADDRESS_LIMIT, References


def write(directory: Path, name: str, key: str, text: str) -> Path:
    path = directory / "configmaps" / name / key
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = directory / "aside"
    aside.write_text(text)
    return aside.rename(path)


def test_all_keys_of_a_config_map_are_one_set(tmp_path: Path) -> None:
    write(tmp_path, "offices", "berlin", "10.0.0.0/8\n")
    write(tmp_path, "offices", "paris", "192.0.2.0/24\nfd00::/8\n")
    write(tmp_path, "offices", "..data", "not a network")
    assert len(References(tmp_path, ["offices"]).networks["offices"]) == 3


def test_a_bad_line_refuses_by_its_file_and_number(tmp_path: Path) -> None:
    write(tmp_path, "offices", "list", "10.0.0.0/8\n10.0.0.0/99\n")
    with pytest.raises(ResourceError, match=r'configmaps/offices/list, line 2: "10.0.0.0/99" is not a CIDR'):
        References(tmp_path, ["offices"])


def test_a_config_map_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"reading the ConfigMap offices from .*: No such file"):
        References(tmp_path, ["offices"])


def test_without_a_directory_the_option_is_named() -> None:
    with pytest.raises(ResourceError, match=r"the ConfigMap offices: without a cluster, give --refs DIR"):
        References(None, ["offices"])
    assert References(None, []).networks == {}


def test_too_many_networks_are_refused(tmp_path: Path) -> None:
    lines = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(ADDRESS_LIMIT + 1))
    write(tmp_path, "offices", "list", "\n".join(lines))
    with pytest.raises(ResourceError, match=rf"have {ADDRESS_LIMIT + 1} networks, at most {ADDRESS_LIMIT}"):
        References(tmp_path, ["offices"])


def test_a_change_is_seen_once_and_a_bad_one_leaves_the_last_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "offices", "list", "10.0.0.0/8\n")
    references = References(tmp_path, ["offices"])
    first = references.networks
    assert not references.refresh()
    assert references.networks is first
    write(tmp_path, "offices", "list", "10.0.0.0/8\nfd00::/8\n")
    assert references.refresh()
    assert not references.refresh()
    assert references.networks["offices"].hold(packed("fd00::1"))
    with caplog.at_level(logging.ERROR):
        write(tmp_path, "offices", "list", "nonsense\n")
        assert not references.refresh()
        assert not references.refresh()
        (tmp_path / "configmaps/offices/list").unlink()
        (tmp_path / "configmaps/offices").rmdir()
        assert not references.refresh()
    assert "line 1" in caplog.records[0].message
    assert caplog.records[0].message.endswith("what was read before stays in force")
    assert references.networks["offices"].hold(packed("fd00::1"))
    write(tmp_path, "offices", "list", "192.0.2.0/24\n")
    assert references.refresh()
    assert not references.networks["offices"].hold(packed("fd00::1"))

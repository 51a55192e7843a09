"""The ConfigMaps that rules name, where a directory stands for the cluster: configmaps/NAME/KEY below it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from podwire_agent.core.networks import BadNetwork, Networks, parse_lines
from podwire_agent.errors import ResourceError

log = logging.getLogger(__name__)

ADDRESS_LIMIT = 100_000
"""Networks in all ConfigMaps of a monitor together."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Of a ConfigMap's keys: name, inode, size and time of change."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkList:
    """What a ConfigMap of the cluster lists."""

    name: str
    version: str
    """The ConfigMap's resourceVersion."""
    networks: Networks | None
    """Of its last state that was good; None: there was none yet."""
    problem: str = ""
    """Why its present state is refused, in words."""


def read_list(name: str, version: str, data: Mapping[str, str], held: NetworkList | None) -> NetworkList:
    """Of all keys together; `held` is what was made of a former state of it."""
    if held is not None and held.version == version:
        return held
    parts = []
    for key, text in sorted(data.items()):
        try:
            parts.append(parse_lines(text))
        except BadNetwork as error:
            problem = f"ConfigMap {name}, key {key}, {error}"
            return NetworkList(name, version, None if held is None else held.networks, problem)
    return NetworkList(name, version, Networks.union(parts))


class References:
    """Of one monitor. What is read once stays until something readable is in its place."""

    def __init__(self, directory: Path | None, names: Iterable[str]) -> None:
        """Reads all of `names`. ResourceError: one is not there, or has a bad line."""
        self.networks: Mapping[str, Networks] = {}
        """By the name of the ConfigMap. Another object after a change."""
        self._directory = directory
        self._names = sorted(set(names))
        self._stamps: dict[str, Stamp] = {}
        self._take({name: self._read(name) for name in self._names})

    def refresh(self) -> bool:
        """Look for changes; whether there is one that is good. A bad one is told in the log, once."""
        changed: dict[str, tuple[Stamp, Networks]] = {}
        for name in self._names:
            try:
                if _stamp(self._keys(name)) != self._stamps.get(name):
                    changed[name] = self._read(name)
            except (ResourceError, OSError) as error:
                self._stamps[name] = self._stamp_or_nothing(name)
                log.error("%s; what was read before stays in force", error)
        if not changed:
            return False
        try:
            self._take(changed)
        except ResourceError as error:
            self._stamps |= {name: stamp for name, (stamp, _) in changed.items()}
            log.error("%s; what was read before stays in force", error)
            return False
        return True

    def _take(self, read: Mapping[str, tuple[Stamp, Networks]]) -> None:
        networks = {**self.networks, **{name: found for name, (_, found) in read.items()}}
        total = sum(map(len, networks.values()))
        if total > ADDRESS_LIMIT:
            raise ResourceError(
                f"the ConfigMaps {', '.join(networks)} have {total} networks, at most {ADDRESS_LIMIT} can be used; "
                "shorten them, or join neighbours to larger networks"
            )
        self.networks = networks
        self._stamps |= {name: stamp for name, (stamp, _) in read.items()}

    def _read(self, name: str) -> tuple[Stamp, Networks]:
        keys = self._keys(name)
        stamp = _stamp(keys)
        return stamp, Networks.union([_parse(key) for key in keys])

    def _keys(self, name: str) -> list[Path]:
        if self._directory is None:
            raise ResourceError(
                f"cidrsFrom names the ConfigMap {name}: without a cluster, give --refs DIR and put it into "
                f"DIR/configmaps/{name}/KEY"
            )
        there = self._directory / "configmaps" / name
        try:
            return sorted(path for path in there.iterdir() if not path.name.startswith("..") and path.is_file())
        except OSError as error:
            raise ResourceError(f"reading the ConfigMap {name} from {there}: {error.strerror}") from error

    def _stamp_or_nothing(self, name: str) -> Stamp:
        try:
            return _stamp(self._keys(name))
        except (ResourceError, OSError):
            return ()


def _parse(key: Path) -> Networks:
    try:
        return parse_lines(key.read_text(encoding="utf-8"))
    except BadNetwork as error:
        raise ResourceError(f"{key}, {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"reading {key}: {error}") from error


def _stamp(keys: Iterable[Path]) -> Stamp:
    stats = [(path.name, path.stat()) for path in keys]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

"""What an agent must know to go on where another ended: named sections in one file.

A zip archive: header.json, and an .npy file for each section that is an array (so np.load and unzip read it too).
A section that changes its meaning gets a new name; arrays are taken over by the names of their fields. A section
that an agent does not know is not kept: beside newer sections it would tell of an older time.

Written aside and renamed: whoever is killed leaves the old file or the new one. It is not synced to disk: it lives
on tmpfs, as long as the pins do, and means nothing after a reboot.
"""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podwire_agent.errors import StateError
from podwire_agent.model import Records

FORMAT = 1

Section = Records | dict[str, Any] | list[Any]
"""A structured array, or what JSON can say."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose checkpoint it is."""

    boot_id: str
    fingerprint: str
    """layout.FINGERPRINT of the agent that wrote it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read back."""

    header: Header
    sections: Mapping[str, Section]


def save(path: Path, header: Header, sections: Mapping[str, Section]) -> None:
    """Replace the checkpoint at `path`. StateError where there is no room; then the old one stays."""
    arrays = {name: section for name, section in sections.items() if isinstance(section, np.ndarray)}
    head = {
        "format": FORMAT,
        "boot_id": header.boot_id,
        "fingerprint": header.fingerprint,
        "sections": {name: section for name, section in sections.items() if name not in arrays},
        "arrays": list(arrays),
    }
    aside = _aside(path)
    try:
        with zipfile.ZipFile(aside, "w") as archive:
            archive.writestr("header.json", json.dumps(head))
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        aside.rename(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StateError(
            f"writing the checkpoint {path}: {error.strerror}; nothing is lost while the agent runs, make room for it"
        ) from error


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`; None where there is none. StateError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read("header.json"))
            if head["format"] != FORMAT:
                raise StateError(
                    f"the checkpoint {path} has format {head['format']}, this agent reads {FORMAT}; "
                    "run the version that wrote it, or `podwire-agent cleanup`"
                )
            sections = head["sections"] | {name: _array(archive, name) for name in head["arrays"]}
            return Checkpoint(Header(head["boot_id"], head["fingerprint"]), sections)
    except FileNotFoundError:
        return None
    # All that zipfile, json and numpy raise on damaged bytes: RuntimeError for flags and methods they do not know.
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        RuntimeError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error) or type(error).__name__
        raise StateError(
            f"reading the checkpoint {path}: {reason}; run `podwire-agent cleanup` to start anew"
        ) from error


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _array(archive: zipfile.ZipFile, name: str) -> Records:
    with archive.open(f"{name}.npy") as member:
        array: Records = np.lib.format.read_array(member, allow_pickle=False)
    return array

"""The state directory: the lock, the monitors' slots, the checkpoints' places. On tmpfs, so it ends with the boot
as the pins do.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from podwire_agent.errors import ResourceError, StateError
from podwire_agent.model import MonitorUid

DEFAULT = Path("/run/podwire")

SLOTS = range(1, 9)
"""Handles of TC filters, one a monitor on this node."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NETWORK_NAMESPACE = Path("/proc/self/ns/net")


SOCKET = "api.sock"
"""The name of the local API's socket in the state directory."""


class StateDirectory:
    """Context manager that holds the lock: two agents on one state would count twice. For any thread."""

    def __init__(
        self,
        path: Path,
        boot_id: Path = BOOT_ID,
        namespace: Path = NETWORK_NAMESPACE,
        *,
        any_namespace: bool = False,
    ) -> None:
        """`any_namespace`: take also what was begun in another network namespace, to remove it."""
        self._any_namespace = any_namespace
        self.path = path
        self._namespace = namespace
        self._lock = -1
        self._slots_lock = threading.Lock()
        self._boot_id = boot_id
        self.boot_id = ""

    def __enter__(self) -> Self:
        try:
            self.boot_id = self._boot_id.read_text().strip()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"opening the state directory {self.path}: {error.strerror}; run as root or choose --state-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._any_namespace:
                self._check_namespace()
        except BlockingIOError as error:
            os.close(self._lock)
            raise StateError(
                f"another agent uses the state directory {self.path}; stop it, or choose another --state-dir"
            ) from error
        except StateError:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def checkpoint(self, uid: MonitorUid) -> Path:
        """Where the checkpoint of a monitor is."""
        return self.path / f"{uid}.checkpoint"

    @property
    def socket(self) -> Path:
        """Of the local API, while an agent runs."""
        return self.path / SOCKET

    @property
    def remembered(self) -> Path:
        """Where an agent in a cluster keeps the monitors that it serves."""
        return self.path / "served"

    def layout(self, uid: MonitorUid, fingerprint: str) -> Path:
        """Where the layout of a monitor's maps is described, for an agent that has another one."""
        return self.path / f"{uid}.{fingerprint}.layout"

    def slot(self, uid: MonitorUid) -> int:
        """The monitor's slot, given once and kept until `forget`. ResourceError where all are taken."""
        with self._slots_lock:
            slots = self._slots()
            if uid not in slots:
                free = next((slot for slot in SLOTS if slot not in slots.values()), None)
                if free is None:
                    raise ResourceError(
                        f"no place for one more monitor: {len(SLOTS)} run or are kept on this node already; "
                        "give fewer files, or remove one with `podwire-agent cleanup --monitor NAME`"
                    )
                slots[uid] = free
                self._write("namespace", self._here())
                self._write("slots", slots)
            return slots[uid]

    def known(self) -> list[MonitorUid]:
        """The monitors that may have left something, as far as it can be read."""
        try:
            slots = [*self._slots()]
        except StateError:
            slots = []
        return sorted({*slots, *(MonitorUid(path.name.split(".")[0]) for path in self._of_monitors())})

    def forget_all(self, uids: Iterable[MonitorUid] | None = None) -> None:
        """Forget these monitors; without `uids` leave nothing but the lock, be it readable or not."""
        if uids is not None:
            for uid in uids:
                self.forget(uid)
            return
        for path in [*self._of_monitors(), self.path / "slots", self.path / "namespace", self.remembered, self.socket]:
            path.unlink(missing_ok=True)

    def forget(self, uid: MonitorUid) -> None:
        """Drop the monitor's checkpoint and free its slot."""
        for path in self.path.glob(f"{uid}.*"):
            path.unlink()
        with self._slots_lock:
            slots = self._slots()
            if slots.pop(uid, None) is not None:
                self._write("slots", slots)
            if not slots:
                (self.path / "slots").unlink(missing_ok=True)
                (self.path / "namespace").unlink(missing_ok=True)

    def _of_monitors(self) -> list[Path]:
        return [path for path in self.path.glob("*-*.*") if path.is_file()]

    def _slots(self) -> dict[MonitorUid, int]:
        try:
            return dict(json.loads((self.path / "slots").read_text()))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            raise StateError(
                f"reading {self.path / 'slots'}: {error}; run `podwire-agent cleanup` to start anew"
            ) from error

    def _check_namespace(self) -> None:
        """Interface indexes mean something in one network namespace only."""
        try:
            there = json.loads((self.path / "namespace").read_text())
        except (FileNotFoundError, ValueError):
            return
        if there != self._here() and self._slots():
            raise StateError(
                f"the state directory {self.path} was begun in another network namespace; "
                "run the agent there, choose another --state-dir, or remove it with `podwire-agent cleanup`"
            )

    def _here(self) -> list[int]:
        status = self._namespace.stat()
        return [status.st_dev, status.st_ino]

    def _write(self, name: str, value: object) -> None:
        aside = self.path / f"{name}.new"
        try:
            aside.write_text(json.dumps(value))
            aside.rename(self.path / name)
        except OSError as error:
            raise StateError(f"writing {self.path / name}: {error.strerror}; make room for it") from error

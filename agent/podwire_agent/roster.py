"""The monitors that a node serves, each under its supervisor: brought up, changed and ended to match what is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from podwire_agent.cleanup import left_behind, remove_left, remove_nameless
from podwire_agent.errors import PodwireError
from podwire_agent.kube.monitors import MonitorObject
from podwire_agent.model import MonitorUid
from podwire_agent.supervisor import Ending, Supervised, Supervisor
from podwire_api.names import MAX_MONITORS

log = logging.getLogger(__name__)

SWEEP_AGAIN_S = 30.0
"""After one that left something."""


class Roster:
    """Called by one thread, but for `supervisors`."""

    def __init__(self, common: Supervised) -> None:
        self.left: tuple[str, ...] = ()
        """What could not be removed, in words."""
        self._common = common
        self._supervisors: dict[str, Supervisor] = {}
        self._sweep_s: float | None = None

    def supervisors(self) -> dict[str, Supervisor]:
        """By uid; those that are ending too."""
        return self._supervisors.copy()

    def match(self, wanted: Sequence[MonitorObject]) -> None:
        """Have exactly these served, in time; none of them without a resource, and at most MAX_MONITORS."""
        uids = {each.uid for each in wanted}
        for uid, supervisor in self.supervisors().items():
            if supervisor.standing().ended:
                self._forget(uid, supervisor)
            elif uid not in uids:
                supervisor.end(Ending.REMOVE)
        for each in wanted:
            if each.resource is None:
                continue
            if (known := self._supervisors.get(each.uid)) is not None:
                known.want(each.resource, each.generation)
            elif len(self._supervisors) < MAX_MONITORS:  # one that is ending has its place still
                log.info("monitor %s (%s) is served from now on", each.name, each.uid)
                self._supervisors[each.uid] = Supervisor(each.resource, each.generation, self._common)

    def sweep_soon(self) -> None:
        """What belongs to none of the monitors may have been left by others."""
        self._sweep_s = time.monotonic()

    def sweep(self) -> float:
        """Remove it, if that is due. For a complete view only. After how many seconds to come again."""
        if self._sweep_s is None:
            return SWEEP_AGAIN_S
        wait_s = self._sweep_s - time.monotonic()
        if wait_s > 0:
            return wait_s
        left = tuple(self._remove_strangers())
        for words in set(left) - set(self.left):
            log.warning("%s; it is tried again", words)
        self.left = left
        self._sweep_s = time.monotonic() + SWEEP_AGAIN_S if left else None
        return SWEEP_AGAIN_S

    def end(self, ending: Ending, timeout_s: float) -> bool:
        """All of them, at once. Whether all ended well; what remains after KEEP and in time is as if killed."""
        deadline_s = time.monotonic() + timeout_s
        for each in self._supervisors.values():
            each.end(ending)
        well = True
        for uid, each in self.supervisors().items():
            if each.join(max(0.0, deadline_s - time.monotonic())):
                well &= each.taken
                self._forget(uid, each)
            else:
                well = False
                log.error("monitor %s did not end within %g s", uid, timeout_s)
        if ending is Ending.REMOVE:
            self.left = tuple(self._remove_strangers())
            for words in self.left:
                log.error("%s", words)
            well &= not self.left
        return well

    def _forget(self, uid: str, supervisor: Supervisor) -> None:
        supervisor.join()
        del self._supervisors[uid]
        if not supervisor.taken:
            self.sweep_soon()

    def _remove_strangers(self) -> list[str]:
        """What could not be removed, in words."""
        state, home = self._common.ground.state, self._common.ground.home
        ours = [MonitorUid(uid) for uid in self._supervisors]
        left = []
        for uid in left_behind(state, home):
            if uid in ours:
                continue
            try:
                for line in remove_left(state, home, uid):
                    log.info("removed %s: it belongs to no monitor of this node", line)
            except PodwireError as error:
                left.append(f"removing what is left of monitor {uid}: {error}")
        try:
            for line in remove_nameless(home, ours):
                log.info("removed %s: it belongs to no monitor of this node", line)
        except PodwireError as error:
            left.append(f"removing filters of no monitor: {error}")
        return left

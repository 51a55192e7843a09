"""In which row a flow is counted, where the same packets pass several interfaces."""

from __future__ import annotations

import numpy as np

from podwire_agent.core.questions import Covers, Flags, Indexes, Translated, World
from podwire_agent.core.talk import Talk, kinds_of, taken, without_port
from podwire_agent.model import EndKind, Placed, Records

TCP = 6


def place(ends: Records, talk: Talk, addressed: Flags, host: Flags, out: Flags, covers: Covers, world: World) -> None:
    """Fill in `placed`: where it arrives if the monitor covers the receiver, else where it leaves; and `tells_tcp`.

    What goes to a node's address is counted where it leaves (core.questions.Covers.arrives). So a node's own interface
    leaves out what a sender has counted; and so does the veth of a pod, for answers of another node's pods, where this
    node hides the pod's address behind another one (masquerade), or where a third node is between the two.

    What a flow tells of TCP connections (begun, failed, sent again) is counted where it leaves if the monitor watches
    the sender, else where it arrives: a connection that somebody denies arrives nowhere.

    `addressed`: all that is known of the far end is its service. `host`: seen on the node's own interfaces. `out`: of
    those, what does not end there.
    """
    src, dst, placed = np.ascontiguousarray(ends["src"]), np.ascontiguousarray(ends["dst"]), ends["placed"]
    placed[out] = Placed.LEFT_OUT
    leaving = np.flatnonzero(~talk.to_pod & ~out)
    if len(leaving):
        covered = covers.arrives(dst[leaving], talk.as_it_arrives(leaving), talk.kinds[leaving])
        placed[leaving[covered]] = Placed.ELSEWHERE
    apart: Flags = world.node_of[src] != world.node_of[dst]
    hidden = _hidden(talk.translated) & apart
    hidden |= _relayed(talk, addressed & talk.to_pod & ~host, src, world)
    ends["tells_tcp"] = ~out & (talk.protocol == TCP)
    counted_elsewhere = host | hidden
    arriving = np.flatnonzero(talk.to_pod & ~out & (counted_elsewhere | (talk.protocol == TCP)))
    if len(arriving):
        covered = covers.leaves(src[arriving], taken(talk.seen, arriving), talk.kinds[arriving])
        passes = apart[arriving] | (kinds_of(world)[src[arriving]] != EndKind.NODE)  # the sender's interface, that is
        ends["tells_tcp"][arriving[covered & passes]] = 0
        counted = arriving[covered & counted_elsewhere[arriving]]
        placed[counted] = np.where(host[counted], Placed.LEFT_OUT, Placed.ELSEWHERE)


def _hidden(translated: Translated) -> Flags:
    """Answers to a client whose address was another one for the server."""
    hidden: Flags = translated.found & translated.is_reply & translated.snat
    at = np.flatnonzero(hidden)
    client = "src_address"
    hidden[at] = (translated.original[client][at] != translated.translated[client][at]).any(axis=1)
    return hidden


def _relayed(talk: Talk, answers: Flags, backends: Indexes, world: World) -> Flags:
    """Answers that come from a node's port, while the backend is known to be on another node.

    The node in between has hidden the client from the backend: it could not hand the answer on otherwise.
    """
    relayed = np.zeros(len(answers), np.bool_)
    at = np.flatnonzero(answers)
    if len(at):
        kinds = kinds_of(world)
        between = without_port(world, talk.far_address[at], talk.times(at))
        known = (kinds[between] == EndKind.NODE) & (kinds[backends[at]] == EndKind.POD)
        relayed[at] = known & (world.node_of[between] != world.node_of[backends[at]])
    return relayed

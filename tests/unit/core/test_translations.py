from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire_agent.core.translation_table import KEEP_NS, TranslationTable
from podwire_agent.core.translations import (
    LIFE,
    SLACK_NS,
    Hashes,
    Index,
    Translations,
    TupleHash,
    Words,
    keyed_hash,
    words_of,
)
from podwire_agent.model import CONNECTION
from tests.unit.core.translated_worlds import Life, Tuple, ask, covering, packed, told, tuples, turned

pytestmark = pytest.mark.unit

MS = 10**6
S = 10**9
AGES_NS = 1 << 50

CLIENT, SERVICE, BACKEND, NODE = "10.1.0.1", "10.96.0.10", "10.1.0.2", "192.0.2.1"
REQUEST: Tuple = (CLIENT, 40000, SERVICE, 80)
PLAIN = Life(REQUEST, (CLIENT, 40000, BACKEND, 8080), 10 * S)


def table_of(*lives: Life) -> TranslationTable:
    """They began one after the other."""
    table = TranslationTable(1)
    for life in lives:
        table.change(told([life], life.start_mono_ns, life.start_mono_ns + 100 * MS))
    return table


@pytest.mark.parametrize(
    ("life", "dnat", "snat"),
    [
        pytest.param(PLAIN, True, False, id="a service's address"),
        pytest.param(Life(REQUEST, (CLIENT, 40000, SERVICE, 8080), 0), True, False, id="another port alone"),
        pytest.param(Life(REQUEST, (NODE, 5, BACKEND, 8080), 0), True, True, id="a service with masquerade"),
        pytest.param(
            Life((CLIENT, 1, NODE, 30080), (NODE, 2, BACKEND, 8080), 0), True, True, id="a node's port with masquerade"
        ),
        pytest.param(Life(REQUEST, (CLIENT, 51675, BACKEND, 8080), 0), True, True, id="a client's port that was taken"),
        pytest.param(
            Life((BACKEND, 7, SERVICE, 80), (NODE, 7, BACKEND, 8080), 0), True, True, id="a pod's own service (hairpin)"
        ),
        pytest.param(
            Life((CLIENT, 40000, "8.8.8.8", 53), (NODE, 40000, "8.8.8.8", 53), 0), False, True, id="masquerade alone"
        ),
    ],
)
def test_every_form_of_a_connection_leads_to_both_ends(life: Life, dnat: bool, snat: bool) -> None:
    forms = [life.original, life.translated, turned(life.original), turned(life.translated)]
    answer = ask(table_of(life).snapshot(20 * S), forms, 20 * S, 21 * S)
    assert answer.found.all()
    assert answer.is_reply.tolist() == [False, False, True, True]
    assert (answer.original == packed(life.original)).all()
    assert (answer.translated == packed(life.translated)).all()
    assert answer.dnat.tolist() == [dnat] * 4
    assert answer.snat.tolist() == [snat] * 4


def test_what_is_not_known_is_given_back_as_it_was() -> None:
    others: list[Tuple] = [(CLIENT, 40000, BACKEND, 80), (CLIENT, 40001, SERVICE, 80), (SERVICE, 40000, CLIENT, 80)]
    answer = ask(table_of(PLAIN).snapshot(20 * S), others, 20 * S, 21 * S)
    assert not (answer.found | answer.is_reply | answer.dnat | answer.snat).any()
    assert (answer.original == tuples(others)).all()
    assert (answer.translated == tuples(others)).all()


def test_another_protocol_is_another_tuple() -> None:
    other = tuples([REQUEST])
    other["protocol"] = 17
    times = np.full(1, 20 * S, np.uint64)
    assert not table_of(PLAIN).snapshot(20 * S).of(other, times, times).found.any()


def test_without_translations_nothing_is_found() -> None:
    assert len(Translations.none()) == 0
    assert not ask(Translations.none(), [REQUEST], 1, 2).found.any()
    assert len(ask(table_of(PLAIN).snapshot(20 * S), [], 1, 2).found) == 0


def test_ports_in_the_hosts_byte_order_are_understood() -> None:
    seen = np.concatenate([tuples([REQUEST])])
    times = np.full(1, 20 * S, np.uint64)
    assert table_of(PLAIN).snapshot(20 * S).of(seen, times, times).found.all()


AGAIN = Life(REQUEST, (CLIENT, 40000, "10.1.0.3", 8080), 30 * S)


@pytest.mark.parametrize(
    ("first", "last", "backend"),
    [
        pytest.param(11 * S, 12 * S, BACKEND, id="within the first life"),
        pytest.param(10 * S - 10 * MS, 12 * S, BACKEND, id="a clock's error before it"),
        pytest.param(10 * S - 2 * SLACK_NS, 12 * S, "", id="long before it"),
        pytest.param(31 * S, 32 * S, "10.1.0.3", id="within the second life"),
        pytest.param(11 * S, 32 * S, "", id="over both"),
        pytest.param(11 * S, 21 * S, "", id="beyond the end of the first"),
        pytest.param(24 * S, 25 * S, "", id="between them"),
        pytest.param(24 * S, 32 * S, "", id="from between them into the second"),
    ],
)
def test_a_tuple_used_again_is_told_apart_by_time(first: int, last: int, backend: str) -> None:
    table = table_of(PLAIN)
    table.change(told([PLAIN], 19 * S, 20 * S, ended=True))
    table.change(told([AGAIN], AGAIN.start_mono_ns, AGAIN.start_mono_ns + 100 * MS))
    answer = ask(table.snapshot(40 * S), [REQUEST], first, last)
    assert answer.found.tolist() == [bool(backend)]
    if backend:
        assert answer.translated["dst_address"][0, 12:].tolist() == [int(byte) for byte in backend.split(".")]


def test_two_lives_with_one_translation_are_as_one() -> None:
    table = table_of(PLAIN)
    table.change(told([PLAIN], 19 * S, 20 * S, ended=True))
    table.change(told([PLAIN], 21 * S, 22 * S))
    assert ask(table.snapshot(40 * S), [REQUEST, turned(PLAIN.translated)], 11 * S, 32 * S).found.all()


def test_a_life_whose_end_nobody_told_ends_where_the_next_begins() -> None:
    answer = ask(table_of(PLAIN, AGAIN).snapshot(40 * S), [REQUEST], 11 * S, 12 * S)
    assert answer.translated[0] == packed(PLAIN.translated)


def test_connections_of_one_moment_that_used_one_tuple_are_not_told_apart() -> None:
    table = TranslationTable(1)
    changes = np.zeros(4, CONNECTION)
    for number, (life, ended) in enumerate([(PLAIN, False), (PLAIN, True), (AGAIN, False), (AGAIN, True)]):
        changes[number] = told([life], 10 * S, 10 * S + 100 * MS, ended=ended)[0]
    table.change(changes)
    assert len(table) == 2
    snapshot = table.snapshot(11 * S)
    assert not ask(snapshot, [REQUEST], 10 * S + 20 * MS, 10 * S + 30 * MS).found.any()
    assert ask(snapshot, [PLAIN.translated, AGAIN.translated], 10 * S + 20 * MS, 10 * S + 30 * MS).found.all()


def test_two_zones_with_different_translations_are_not_told_apart() -> None:
    table = table_of(PLAIN, Life(REQUEST, AGAIN.translated, 12 * S, zone=7))
    assert len(table) == 2
    assert not ask(table.snapshot(40 * S), [REQUEST], 20 * S, 21 * S).found.any()
    table.change(told([PLAIN], 29 * S, 30 * S, ended=True))
    answer = ask(table.snapshot(40 * S), [REQUEST], 31 * S, 32 * S)
    assert answer.translated[0] == packed(AGAIN.translated)


def test_a_service_that_is_a_backend_too_is_not_told_apart() -> None:
    chained = Life(("10.1.0.9", 40000, CLIENT, 1), REQUEST, 10 * S)
    assert not ask(table_of(PLAIN, chained).snapshot(20 * S), [REQUEST], 15 * S, 16 * S).found.any()
    assert ask(
        table_of(PLAIN, chained).snapshot(20 * S), [chained.original, PLAIN.translated], 15 * S, 16 * S
    ).found.all()


def test_what_is_told_twice_is_one() -> None:
    table = table_of(PLAIN, PLAIN)
    assert len(table) == 1
    table.change(told([PLAIN, PLAIN], 12 * S, 13 * S, ended=True))
    assert (len(table), table.ongoing) == (1, 0)


def test_an_end_without_a_beginning_tells_of_the_connection_all_the_same() -> None:
    table = TranslationTable(1)
    table.replace(told([], 0, 0), 0, 5 * S)
    table.replace(told([], 0, 0), 8 * S, 9 * S)
    table.change(told([PLAIN], 12 * S, 13 * S, ended=True))
    snapshot = table.snapshot(20 * S)
    assert ask(snapshot, [REQUEST], 10 * S, 11 * S).found.all()
    assert not ask(snapshot, [REQUEST], 7 * S, 11 * S).found.any(), "then it would have been told of"


def test_a_listing_puts_everything_right() -> None:
    stays, goes, comes = PLAIN, AGAIN, Life((CLIENT, 3, SERVICE, 80), (CLIENT, 3, BACKEND, 8080), 0)
    goes = Life((CLIENT, 2, SERVICE, 80), (CLIENT, 2, BACKEND, 8080), 10 * S)
    table = table_of(stays, goes)
    table.replace(told([stays, comes], 0, 0), 20 * S, 21 * S)
    snapshot = table.snapshot(22 * S)
    assert ask(snapshot, [stays.original, goes.original], 11 * S, 12 * S).found.all()
    assert ask(snapshot, [stays.original, goes.original, comes.original], 21 * S + 500 * MS, 22 * S).found.tolist() == [
        True,
        False,
        True,
    ]
    assert not ask(snapshot, [comes.original], 15 * S, 22 * S).found.any(), "it began after that"


def test_a_listing_with_another_translation_is_another_life() -> None:
    table = table_of(PLAIN)
    table.replace(told([AGAIN], 0, 0), 20 * S, 21 * S)
    snapshot = table.snapshot(30 * S)
    assert ask(snapshot, [REQUEST], 11 * S, 12 * S).translated[0] == packed(PLAIN.translated)
    assert ask(snapshot, [REQUEST], 22 * S, 23 * S).translated[0] == packed(AGAIN.translated)


def many(count: int, port: int = 1) -> list[Life]:
    """With one client port each."""
    ports = range(port, port + count)
    return [Life((CLIENT, each, SERVICE, 80), (CLIENT, each, BACKEND, 8080), 0) for each in ports]


def test_what_has_ended_is_kept_for_its_time_and_then_given_up() -> None:
    lives = many(3000)
    table = TranslationTable(1)
    table.change(told(lives, S, 2 * S))
    table.change(told(lives[:2000], 3 * S, 4 * S, ended=True))
    assert ask(table.snapshot(4 * S + KEEP_NS), [lives[0].original], 2 * S, 3 * S).found.all()
    assert len(table) == 3000
    snapshot = table.snapshot(4 * S + KEEP_NS + 1)
    assert len(table) == len(snapshot) == 1000
    assert not ask(snapshot, [lives[0].original], 2 * S, 3 * S).found.any()
    assert ask(snapshot, [life.original for life in lives[2000:]], 2 * S, 3 * S).found.all()
    assert table.dropped_total == 0


def test_where_there_is_no_room_what_ended_first_goes_first_and_is_counted() -> None:
    lives = many(6)
    table = TranslationTable(1, limit=4)
    table.change(told(lives[:4], S, 2 * S))
    table.change(told(lives[:1], 2 * S, 3 * S, ended=True))
    table.change(told(lives[1:2], 3 * S, 4 * S, ended=True))
    table.change(told(lives[4:5], 4 * S, 5 * S))
    assert (len(table), table.dropped_total) == (4, 1)
    found = ask(table.snapshot(5 * S), [life.original for life in lives[:5]], S + 1, 2 * S).found
    assert found.tolist() == [False, True, True, True, False]
    assert ask(table.snapshot(5 * S), [lives[4].original], 5 * S, 5 * S).found.all()


def test_where_all_live_new_ones_are_not_taken_and_counted() -> None:
    lives = many(6)
    table = TranslationTable(1, limit=4)
    table.change(told(lives, S, 2 * S))
    assert (len(table), table.dropped_total) == (4, 2)
    table.change(told(lives[5:], 2 * S, 3 * S, ended=True))
    assert (len(table), table.ongoing) == (4, 4)
    assert ask(table.snapshot(5 * S), [life.original for life in lives], 2 * S, 2 * S).found.sum() == 4


def test_what_is_past_its_time_goes_uncounted() -> None:
    table = TranslationTable(1, limit=4)
    table.change(told(many(4), S, 2 * S))
    table.change(told(many(4), 2 * S, 3 * S, ended=True))
    late = 4 * S + KEEP_NS
    table.change(told(many(4, 10), late, late + 1))
    assert (len(table), table.dropped_total) == (4, 0)


def test_a_snapshot_stays_as_it_was() -> None:
    table = TranslationTable(1, limit=5000)
    lives = many(5000)
    table.change(told(lives[:1500], S, 2 * S))
    before = table.snapshot(2 * S)
    forms = [life.original for life in lives]
    table.change(told(lives[:1500], 3 * S, 4 * S, ended=True))
    table.change(told(lives[1500:], 5 * S, 6 * S))
    table.change(told(many(3000, 10000), 7 * S, 8 * S))
    table.snapshot(AGES_NS)
    found = ask(before, forms, 2 * S, 100 * S).found
    assert found[:1500].all()
    assert not found[1500:].any()


def one_for_all(_: int) -> TupleHash:
    """Every tuple collides."""

    def hash_(words: Words) -> Hashes:
        return np.zeros(len(words), np.uint64)

    return hash_


def few(seed: int) -> TupleHash:
    """Most collide."""
    good = keyed_hash(seed)
    return lambda words: good(words) % np.uint64(3)


hashes = pytest.mark.parametrize(
    "make_hash",
    [
        pytest.param(keyed_hash, id="a good hash"),
        pytest.param(few, id="collisions"),
        pytest.param(one_for_all, id="nothing but collisions"),
    ],
)

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
ends = st.tuples(st.sampled_from(ADDRESSES), st.integers(1, 2))
some_tuples = st.tuples(ends, ends).map(lambda pair: (*pair[0], *pair[1]))


@st.composite
def worlds(draw: st.DrawFn) -> list[Life]:
    """A few ends that translate into each other, at times that touch and overlap."""
    start, lives = 0, []
    for _ in range(draw(st.integers(0, 12))):
        start += draw(st.sampled_from([0, 0, 20, 200, 1000])) * MS
        end = start + draw(st.sampled_from([0, 10, 300, 5000])) * MS
        original, translated = draw(some_tuples), draw(some_tuples)
        if translated not in (original, turned(original)):
            lives.append(Life(original, translated, start, end, draw(st.sampled_from([0, 0, 0, 5]))))
    return lives


@hashes
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_of_agrees_with_the_plain_reading(make_hash: Callable[[int], TupleHash], data: st.DataObject) -> None:
    lives = data.draw(worlds())
    records = data.draw(st.lists(st.tuples(some_tuples, st.integers(0, 4000), st.integers(0, 2000)), max_size=12))
    seen = tuples([each for each, _, _ in records])
    first = np.array([begin * MS for _, begin, _ in records], np.uint64)
    last = np.array([(begin + length) * MS for _, begin, length in records], np.uint64)
    answer = translations_of(lives, make_hash(1)).of(seen, first, last)
    for number, (each, begin, length) in enumerate(records):
        life = covering(lives, each, begin * MS, (begin + length) * MS)
        assert answer.found[number] == (life is not None)
        if life is not None:
            assert answer.original[number] == packed(life.original)
            assert answer.translated[number] == packed(life.translated)
            assert answer.is_reply[number] == (each not in (life.original, life.translated))


def translations_of(lives: list[Life], hash_: TupleHash) -> Translations:
    """As a table gives them out."""
    rows = np.zeros(len(lives), LIFE)
    told_of = told(lives, 0, 0)
    for name in ("original", "translated", "zone"):
        rows[name] = told_of[name]
    rows["start_mono_ns"] = [life.start_mono_ns for life in lives]
    ends = np.array([life.end_mono_ns for life in lives], np.uint64)
    hashes = [hash_(words_of(rows[form])) for form in ("original", "translated")]
    return Translations(rows, ends, Index.empty().added(hashes[0], hashes[1], 0), hash_)


@st.composite
def histories(draw: st.DrawFn) -> list[Life]:
    """What a kernel can have done: no original tuple and no translated one is used twice at a time."""
    lives: list[Life] = []
    services = [("10.96.0.1", 80), ("10.96.0.2", 80)]
    backends = [("10.1.0.5", 8080), ("10.1.0.6", 8080)]
    now = 0
    for _ in range(draw(st.integers(1, 14))):
        now += draw(st.integers(1, 150)) * MS
        client = ("10.1.0.1", draw(st.integers(1, 2)))
        service, backend = draw(st.sampled_from(services)), draw(st.sampled_from(backends))
        source = draw(st.sampled_from([client, ("192.0.2.1", draw(st.integers(1, 2)))]))
        life = Life((*client, *service), (*source, *backend), now, now + draw(st.integers(0, 400)) * MS)
        taken = [each for each in lives if each.end_mono_ns >= life.start_mono_ns]
        if any(life.original == each.original or life.translated == each.translated for each in taken):
            continue
        lives.append(life)
    return lives


@hashes
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flow_is_never_charged_to_another_connection(
    make_hash: Callable[[int], TupleHash], data: st.DataObject
) -> None:
    lives = data.draw(histories())
    looks = sorted(data.draw(st.sets(st.integers(0, 3000), max_size=20)) | {4000})
    happened = sorted(
        [(life.start_mono_ns, 1, number) for number, life in enumerate(lives)]
        + [
            (life.end_mono_ns, 0 if life.end_mono_ns > life.start_mono_ns else 2, number)
            for number, life in enumerate(lives)
        ]
    )
    table = TranslationTable(1, make_hash=make_hash)
    after = 0
    for look in looks:
        until = look * MS
        events = [(what, lives[number]) for time, what, number in happened if after <= time < until]
        changes = np.zeros(len(events), CONNECTION)
        for number, (what, life) in enumerate(events):
            changes[number] = told([life], after, until, ended=what != 1)[0]
        table.change(changes)
        after = until
    snapshot = table.snapshot(after)
    for life in lives:
        forms = [life.original, life.translated, turned(life.original), turned(life.translated)]
        answer = ask(snapshot, forms, life.start_mono_ns, life.end_mono_ns)
        alone = [each for each in lives if {each.original, each.translated} & {life.original, life.translated}] == [
            life
        ]
        assert answer.found.all() or not alone
        assert (answer.original[answer.found] == packed(life.original)).all()
        assert (answer.translated[answer.found] == packed(life.translated)).all()


def test_a_hash_is_one_for_both_directions_and_depends_on_every_part() -> None:
    hash_ = keyed_hash(5)
    seen: list[Tuple] = [REQUEST, turned(REQUEST)]
    seen += [(CLIENT, 40001, SERVICE, 80), (CLIENT, 80, SERVICE, 40000), ("10.1.0.3", 40000, "10.96.0.8", 80)]
    found = hash_(words_of(tuples(seen))).tolist()
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert keyed_hash(6)(words_of(tuples(seen))).tolist() != found

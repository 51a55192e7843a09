"""The demo's judgement; that the demo runs is shown by running it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest

from tools import demo

LEDGER: dict[str, Any] = {
    "final": True,
    "seen": {"packets": 12, "bytes": 1084, "buffers": 11, "buffer_bytes": 1000},
    "counted": {"packets": 10, "bytes": 1000},
    "filtered": {"packets": 0, "bytes": 0},
    "unsupported": {"packets": 2, "bytes": 84},
    "overflowed": {"packets": 0, "bytes": 0},
    "before_attach": {"low": {"buffers": 3, "bytes": 300}, "high": {"buffers": 3, "bytes": 300}},
}
KEY = ("veth1", "to_pod")


def judged(ledger: dict[str, Any], before: demo.Figures, after: demo.Figures, packets: int = 10) -> int:
    lines = demo.Lines()
    lines.ledgers[KEY] = ledger
    lines.counted[KEY] = Counter(packets=packets, bytes=1000)
    return demo.verdict(lines, {KEY: before}, {KEY: after})


def changed(name: str, **figures: int) -> dict[str, Any]:
    ledger = copy.deepcopy(LEDGER)
    ledger[name] |= figures
    return ledger


@pytest.mark.parametrize(
    ("ledger", "before", "after", "packets", "complaint"),
    [
        pytest.param(LEDGER, (14, 1300), (14, 1300), 10, "", id="equal figures agree"),
        pytest.param(
            LEDGER, (13, 1200), (15, 1400), 10, "", id="a straggler between the two readings may be ours or not"
        ),
        pytest.param(LEDGER, (15, 1400), (15, 1400), 10, "is not what ip says", id="the kernel counted one more"),
        pytest.param(LEDGER, (13, 1200), (13, 1200), 10, "is not what ip says", id="the kernel counted one less"),
        pytest.param(LEDGER, (14, 1301), (14, 1301), 10, "is not what ip says", id="a byte is missing"),
        pytest.param(
            LEDGER, (14, 1300), (14, 1300), 9, "the reported flows have 9 packets", id="a flow was not reported"
        ),
        pytest.param(
            changed("counted", packets=9),
            (14, 1300),
            (14, 1300),
            9,
            "1 packets are unaccounted",
            id="one is unaccounted",
        ),
        pytest.param(LEDGER | {"final": False}, (14, 1300), (14, 1300), 10, "no last account", id="no final ledger"),
    ],
)
def test_the_verdict_says_what_disagrees(
    ledger: dict[str, Any],
    before: demo.Figures,
    after: demo.Figures,
    packets: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = judged(ledger, before, after, packets)
    printed = capsys.readouterr().out
    assert code == (1 if complaint else 0)
    assert (complaint or "All agree") in printed

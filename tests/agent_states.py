"""An agent's state as a scrape finds it, with a value of its own for each figure."""

from __future__ import annotations

from podwire_agent.core.totals import Accounts
from podwire_agent.correlation import RowsState
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Cause, RuleListName, Traffic
from podwire_agent.sinks.outbox import OutboxCounters, Tally
from podwire_agent.telemetry import AgentState, ClusterState, ExchangeState, MonitorState, TranslationsState
from tests.unit.sinks.snapshots import ledger

START_S = 1000.0

SHOP = MonitorState(
    name="shop",
    period_s=5.0,
    scanned=True,
    last_drain_unix_s=START_S + 100,
    accounts={
        FlowDirection.FROM_POD: Accounts().plus(ledger()).plus(ledger(packets=2**40, bytes_=2**41)),
        FlowDirection.TO_POD: Accounts(seen=Traffic(5, 50), overflowed=Traffic(5, 50)),
    },
    filtered={
        Cause(RuleListName.BLACKLIST, "scrapers"): Traffic(12, 1200),
        Cause(RuleListName.WHITELIST, ""): Traffic(7, 700),
    },
    flows=77,
    evicted_flows_total=3,
    map_used={FlowDirection.FROM_POD: 10, FlowDirection.TO_POD: 20},
    map_capacity={FlowDirection.FROM_POD: 65536, FlowDirection.TO_POD: 65536},
    cuts_total=9,
    missed_cuts_total=1,
    delayed_reports_total=2,
    interfaces={"attached": 4, "failed": 1},
    attach_failures_total=6,
    discarded=Traffic(8, 800),
    rows=RowsState(
        rows=30,
        turned_away_total=31,
        compared_flows={"sent": 32, "received": 33, "stated": 34},
        late_windows_total=35,
        dropped_statements_total=36,
        given_up_packets_total=37,
        lost_lately=38,
    ),
    outbox=("lines", OutboxCounters(sent=Tally(4, 40, 400), dropped=Tally(1, 10, 100), queued=1)),
)
STATE = AgentState(
    version="0.1.0",
    kernel="6.1.0",
    loader="libbpf",
    started_unix_s=START_S,
    monitors=(SHOP,),
    late_s=0.002,
    failures_total=5,
)

CLUSTER = ClusterState(
    view=True,
    stale_s=12.5,
    pods=2000,
    monitors={"Attached": 2, "NotBuilt": 1},
    status_writes_total=7,
    status_failures_total=1,
    api_errors_total=3,
    forgotten_addresses_total=4,
    translations=TranslationsState(40, 41, 42, 43),
    exchange=ExchangeState(50, -0.051, 52, 53, {"unreachable": 54}, {"too_old": 55}),
)

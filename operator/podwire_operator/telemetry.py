"""The operator's own metrics, health and readiness: views of its state, made when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class OperatorState:
    """What a scrape shows; made anew for each. `*_total` never falls while the process lives."""

    version: str
    leading: bool
    led_total: int
    warm: bool
    """The view is filled."""
    watching: bool
    watch_starts_total: int
    lists_total: int
    objects: Mapping[str, int]
    """In the view, by kind."""
    waiting: int
    """Keys in the queue."""
    failing: int
    """Keys whose last run failed."""
    dropped_keys_total: int
    reconciles_total: Mapping[str, int]
    """By task."""
    errors_total: Mapping[str, int]
    requests_total: Mapping[tuple[str, str, str], int]
    """By verb, resource and HTTP status."""
    writes_total: Mapping[tuple[str, str], int]
    """By verb and resource."""
    put_back_total: int
    dropped_events_total: int
    expiry_unix_s: Mapping[str, float]
    """By certificate."""
    election_idle_s: float
    """Since the election last took a look."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To a probe: yes or no, and why in words."""

    ok: bool
    words: str


ELECTION_STALLED_S = 60.0


def health(state: OperatorState) -> Answer:
    """Whether the event loop and the election move. An API server that is away is no reason to start anew."""
    if state.election_idle_s > ELECTION_STALLED_S:
        return Answer(False, f"the election has not moved for {state.election_idle_s:.0f} s")
    return Answer(True, "ok")


def readiness(state: OperatorState) -> Answer:
    """Whether it knows the cluster, and so could lead; a follower is ready, too."""
    if not state.warm:
        return Answer(False, "the cluster has not been listed yet")
    return Answer(True, "ok, leading" if state.leading else "ok, following")


class Exposition:
    """Text for Prometheus."""

    def __init__(self, state: Callable[[], OperatorState]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Operator(state))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def __call__(self, accept: str) -> tuple[bytes, str]:
        """What the Accept header asks for: text and content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Operator(Collector):
    def __init__(self, state: Callable[[], OperatorState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Every family, also those without a sample yet."""
        state = self._state()
        yield InfoMetricFamily("podwire_operator", "The operator", value={"version": state.version})
        gauges: list[tuple[str, str, float]] = [
            ("leader", "1 while this replica leads", float(state.leading)),
            ("view_filled", "1 once the cluster has been listed", float(state.warm)),
            ("watching", "1 while the watches run", float(state.watching)),
            ("queue_length", "Keys that wait to be looked at", state.waiting),
            ("failing_keys", "Keys whose last reconcile failed", state.failing),
        ]
        for name, words, number in gauges:
            yield GaugeMetricFamily(f"podwire_operator_{name}", words, value=number)
        counters: list[tuple[str, str, float]] = [
            ("led", "Times this replica began to lead", state.led_total),
            ("watch_starts", "Times the watches were started", state.watch_starts_total),
            ("lists", "Times the view was compared with the cluster", state.lists_total),
            ("dropped_keys", "Keys that found no room in the queue", state.dropped_keys_total),
            ("put_back", "DaemonSets with fields of others that were taken back", state.put_back_total),
            ("dropped_events", "Kubernetes events not posted: too many, or refused", state.dropped_events_total),
        ]
        for name, words, number in counters:
            yield CounterMetricFamily(f"podwire_operator_{name}", words, value=number)
        yield _family(GaugeMetricFamily, "view_objects", "Objects in the view", ("kind",), _single(state.objects))
        for name, words, by_task in (
            ("reconciles", "Reconciles, by what was looked at", state.reconciles_total),
            ("reconcile_errors", "Reconciles that failed and are tried again", state.errors_total),
        ):
            yield _family(CounterMetricFamily, name, words, ("task",), _single(by_task))
        labels = ("verb", "resource", "code")
        yield _family(CounterMetricFamily, "api_requests", "Requests to the API server", labels, state.requests_total)
        words = "Requests that changed something, or would have"
        yield _family(CounterMetricFamily, "writes", words, ("verb", "resource"), state.writes_total)
        words = "When a certificate ceases to be valid"
        expiry = _single(state.expiry_unix_s)
        yield _family(GaugeMetricFamily, "certificate_expiry_timestamp_seconds", words, ("certificate",), expiry)


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    words: str,
    labels: tuple[str, ...],
    samples: Mapping[tuple[str, ...], float] | Mapping[tuple[str, str], int] | Mapping[tuple[str, str, str], int],
) -> Metric:
    family = kind(f"podwire_operator_{name}", words, labels=labels)
    for values, number in sorted(samples.items()):
        family.add_metric(list(values), number)
    return family


def _single(by_name: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): number for name, number in by_name.items()}

"""Numbers for Prometheus: what was asked, how long it took, how well batches fill, what waits."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One registry for one service, so that several can live in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "one_peace_requests", "Answers by route and status.", ["route", "method", "status"], registry=self._registry
        )
        self._latency = Histogram(
            "one_peace_request_seconds",
            "Time until an answer was sent.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "one_peace_batch_inputs", "Inputs in a batch.", ["modality"], buckets=_SIZES, registry=self._registry
        )
        self._model = Counter(
            "one_peace_model_seconds", "Time that the model ran.", ["modality"], registry=self._registry
        )
        self.refused = Counter(
            "one_peace_refused_files", "Files of uploads that were refused.", registry=self._registry
        )
        self.added = Counter("one_peace_added_items", "Items that uploads added.", registry=self._registry)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts an answer."""
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_batch(self, modality: str, size: int, seconds: float) -> None:
        """Counts a batch that the model ran."""
        self._batches.labels(modality).observe(size)
        self._model.labels(modality).inc(seconds)

    def watch(self, waiting: Callable[[], dict[str, int]], items: Callable[[], dict[str, int]]) -> None:
        """Reads these whenever metrics are asked for: inputs that wait and items of the library, by modality."""
        self._registry.register(_Gauges(waiting, items))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, waiting: Callable[[], dict[str, int]], items: Callable[[], dict[str, int]]) -> None:
        self._sources = (
            ("one_peace_waiting_inputs", "Inputs that wait for the model.", waiting),
            ("one_peace_library_items", "Items of the library.", items),
        )

    def collect(self) -> list[GaugeMetricFamily]:
        families = []
        for name, text, read in self._sources:
            family = GaugeMetricFamily(name, text, labels=["modality"])
            for modality, count in read().items():
                family.add_metric([modality], count)
            families.append(family)
        return families

"""The server's numbers, as Prometheus reads them.

What this leaves out: alerts and dashboards.
"""

import time
from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from inference.engine.batch_engine import BatchEngine

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


GAUGES: dict[str, tuple[str, Callable[[BatchEngine], int]]] = {
    "lm_requests_running": ("Requests that run", lambda engine: len(engine.scheduler.running)),
    "lm_requests_waiting": ("Requests that wait", lambda engine: len(engine.scheduler.waiting)),
    "lm_cache_blocks": ("Blocks of the cache", lambda engine: engine.pool.num_blocks),
    "lm_cache_blocks_available": (
        "Blocks that no request holds",
        lambda engine: engine.pool.num_available,
    ),
}


class Metrics:
    """Counters, histograms and gauges of one server, by model; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.answers = Counter(
            "lm_answers_total", "Answers that ended, by reason", ["model", "reason"], **own
        )
        self.refused = Counter("lm_refused_total", "Requests refused, by status", ["status"], **own)
        self.prompt_tokens = Counter(
            "lm_prompt_tokens_total", "Tokens of prompts", ["model"], **own
        )
        self.answer_tokens = Counter(
            "lm_answer_tokens_total", "Tokens of answers", ["model"], **own
        )
        self.first_token = Histogram(
            "lm_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            ["model"],
            buckets=SECONDS,
            **own,
        )
        self.between_tokens = Histogram(
            "lm_time_between_tokens_seconds",
            "From one token of an answer to the next",
            ["model"],
            buckets=SECONDS,
            **own,
        )
        self.gauges = {
            name: Gauge(name, text, ["model"], **own) for name, (text, _) in GAUGES.items()
        }

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The numbers of one model.

    Args:
        metrics: of the server.
        name: the model's, as its label.
        engine: is read whenever the numbers are.
    """

    def __init__(self, metrics: Metrics, name: str, engine: BatchEngine) -> None:
        self.answers = metrics.answers  # has a further label, the reason
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.answer_tokens = metrics.answer_tokens.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.between_tokens = metrics.between_tokens.labels(name)
        for gauge, (_, read) in GAUGES.items():
            metrics.gauges[gauge].labels(name).set_function(partial(read, engine))


class AnswerClock:
    """Measures the times of one answer."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._last = time.perf_counter()
        self._seen_one = False

    def token(self) -> None:
        """Count a token that has just come."""
        now = time.perf_counter()
        times = self._metrics.between_tokens if self._seen_one else self._metrics.first_token
        times.observe(now - self._last)
        self._metrics.answer_tokens.inc()
        self._last, self._seen_one = now, True

"""What `/metrics` shows, in the form of Prometheus."""

import contextlib
import time
import types

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")


class Metrics:
    """Counts of one server.

    Args:
        served: dict from names to models, with an `engine` or None.
    """

    def __init__(self, served):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("kerasllm_requests", "Requests", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "kerasllm_first_piece_seconds", "Time to the first piece of text", buckets=SECONDS, registry=registry
        )
        self._tokens = Counter(
            "kerasllm_tokens", "Tokens of prompts, of these known already, and drawn", ["kind"], registry=registry
        )
        engines = [model.engine for model in served.values() if model.engine is not None]
        for name, about, count in (
            ("waiting", "Requests in the queue", "num_waiting"),
            ("running", "Texts being written", "num_running"),
        ):
            gauge = Gauge(f"kerasllm_{name}", about, registry=registry)
            gauge.set_function(lambda count=count: sum(getattr(engine, count) for engine in engines))

    @contextlib.contextmanager
    def request(self, path):
        """Counts a request of that path; its `status` is to be set within."""
        seen = types.SimpleNamespace(status=500)
        try:
            yield seen
        finally:
            self._requests.labels(path if path in PATHS else "other", seen.status).inc()

    def first_piece(self, pieces):
        self._seconds.observe(time.monotonic() - pieces.began)

    def answered(self, pieces):
        used = pieces.usage()
        self._tokens.labels("prompt").inc(used["prompt_tokens"])
        self._tokens.labels("known").inc(used["prompt_tokens_details"]["cached_tokens"])
        self._tokens.labels("drawn").inc(used["completion_tokens"])

    def text(self):
        return generate_latest(self._registry).decode()

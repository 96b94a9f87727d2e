"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server.

    Attributes:
        content_type: Type of the text that :meth:`text` returns.
        requests: Requests by route and status.
        seconds: Time from the head of a request to the end of its response, by route.
        batches: Images in a batch, by model.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "mbv2kit_requests", "Requests by status; gone: the client left", ["route", "status"], registry=own
        )
        self.seconds = Histogram(
            "mbv2kit_request_seconds", "Time of a request with its transfer", ["route"], buckets=_SECONDS, registry=own
        )
        self.batches = Histogram("mbv2kit_batch_images", "Images in a batch", ["model"], buckets=_SIZES, registry=own)
        self._waiting = Gauge("mbv2kit_waiting_images", "Images that wait for a worker", ["model"], registry=own)
        self._active = Gauge("mbv2kit_active_requests", "Requests that arrive or are answered", registry=own)

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Reports the length of a model's queue."""
        self._waiting.labels(model).set_function(length)

    def watch_active(self, count: Callable[[], int]) -> None:
        """Reports the number of requests in progress."""
        self._active.set_function(count)

    def text(self) -> bytes:
        """Returns all of them as Prometheus reads them."""
        return generate_latest(self._registry)

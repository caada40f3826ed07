"""The metrics of one process.

Workers measure the backlogs in Postgres, such as the number of waiting calls (app/jobs/gauges.py). API processes instead
measure how many workers run (app/http/worker_gauges.py).

Metrics that change with every created call have a function `…_series`, which caches the results of `labels`, because `labels`
takes longer than the update of the metric.
"""

import platform
import time
from collections.abc import Callable, Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector, generate_latest

from app import __version__
from app.errors import error_classes_by_slug

EXPOSITION_INTERVAL_S = 1.0
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0)
_OUTCOME_SECONDS_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0)


class HttpMetrics:
    """Metrics of the HTTP requests that this process answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "callgate_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "callgate_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.refused = Counter(
            "callgate_refused_total",
            "Requests answered with a problem, by its slug.",
            ["slug"],
            registry=registry,
        )
        self.database_unavailable = Counter(
            "callgate_database_unavailable_total",
            "Requests answered `database-unavailable`, by route. A request with many calls counts once.",
            ["method", "route"],
            registry=registry,
        )
        self.requests_series = cache(self.requests.labels)
        self.request_seconds_series = cache(self.request_seconds.labels)
        # Series start at 0, because Prometheus shows no increase from a missing series to 1.
        for slug in error_classes_by_slug():
            self.refused.labels(slug)

    def register_creation_paths(self, paths: Iterable[str]) -> None:
        """Creates the series of `database_unavailable` for the paths at which a POST creates calls, with the value 0.

        The alert on refused creations reads these series. `paths` are path templates of routes.
        """
        for path in paths:
            self.database_unavailable.labels("POST", path)


class CallMetrics:
    """Metrics of the requests to create calls, and of the calls' outcomes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.creations = Counter(
            "callgate_creations_total",
            "Creations that were dialled, by execution and kind of destination.",
            ["execution", "destination"],
            registry=registry,
        )
        self.in_flight = Gauge("callgate_creations_in_flight", "Creations that are in progress.", registry=registry)
        self.settled = Counter("callgate_settled_total", "Executions settled, by what settled them.", ["by"], registry=registry)
        self.settle_seconds = Histogram(
            "callgate_settle_seconds",
            "Time from a creation's intent to the settlement of its execution, by what settled it.",
            ["by"],
            buckets=_OUTCOME_SECONDS_BUCKETS,
            registry=registry,
        )
        self.grants = Counter("callgate_grants_total", "Scheduled calls that were granted.", ["priority"], registry=registry)
        self.creations_series = cache(self.creations.labels)
        self.settled_series = cache(self.settled.labels)
        self.settle_seconds_series = cache(self.settle_seconds.labels)
        # Series start at 0, because Prometheus shows no increase from a missing series to 1.
        for settled_by in ("expired", "canceled"):
            self.settled_series(settled_by)
        self.corrected = Counter(
            "callgate_corrected_total",
            "Calls reported as not started that had started. Investigate each one.",
            registry=registry,
        )
        self.second_sids = Counter(
            "callgate_second_sid_total",
            "Times that Twilio reported a second call for one record, or one call for two records. Investigate each one.",
            registry=registry,
        )
        self.records_lost = Counter(
            "callgate_records_lost_total",
            "Records or attempts that Postgres had lost after their commit. They were written again. Investigate each one.",
            registry=registry,
        )
        self.abandoned = Counter(
            "callgate_abandoned_total",
            "Pending creations that were marked as unknown because their process died.",
            registry=registry,
        )
        self.searches = Counter(
            "callgate_searches_total", "Searches for unknown creations, by result.", ["result"], registry=registry
        )
        self.refreshes = Counter(
            "callgate_refreshes_total",
            "Fetches of a call from Twilio to refresh its record, by result.",
            ["result"],
            registry=registry,
        )
        self.expired = Counter(
            "callgate_expired_total",
            "Items deleted after the retention period: calls, strays (rows of default partitions), partitions.",
            ["what"],
            registry=registry,
        )


class TwilioMetrics:
    """Metrics of the requests that this process sends to Twilio, and of what Twilio's answers show."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "callgate_upstream_seconds",
            "Time of one request to Twilio, by operation and with any result.",
            ["operation"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.answers = Counter(
            "callgate_upstream_answers_total",
            "Requests to Twilio by operation and class of the answer. `not_sent`: no request was sent. `5xx`: Twilio's or a "
            "proxy's. `lost`: no answer came back, or one that proves nothing.",
            ["operation", "answer"],
            registry=registry,
        )
        self.seconds_series = cache(self.seconds.labels)
        self.answers_series = cache(self.answers.labels)
        self.in_flight = Gauge("callgate_upstream_in_flight", "Requests to Twilio that wait for an answer.", registry=registry)
        self.clock_offset = Gauge(
            "callgate_twilio_clock_offset_seconds",
            "How far Twilio's clock is ahead of this process's, by the Date header of its answers of the last 15 minutes.",
            registry=registry,
        )
        self.queued = Counter(
            "callgate_twilio_queued_total",
            "Calls that Twilio has queued, because they were placed faster than their account may dial.",
            registry=registry,
        )
        self.credentials_rejected = Counter(
            "callgate_credentials_rejected_total",
            "Answers with which Twilio refused a credential, to requests of any kind.",
            registry=registry,
        )
        self.unrecorded_calls = Counter(
            "callgate_unrecorded_calls_total",
            "Calls in Twilio's lists without a record: Callgate did not place them.",
            registry=registry,
        )


class CallbackMetrics:
    """Metrics of the callbacks that come from Twilio, and of the deliveries of events to tenants."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter("callgate_callbacks_total", "Twilio's callbacks, by result.", ["result"], registry=registry)
        self.deliveries = Counter(
            "callgate_delivery_attempts_total",
            "Attempts to deliver an event to a tenant, by result.",
            ["result"],
            registry=registry,
        )


class WorkloadMetrics:
    """Metrics of Kubernetes service account tokens, and of the key set that they are checked with."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "callgate_workload_tokens_refused_total",
            "Service account tokens that were refused, by the check that failed.",
            ["reason"],
            registry=registry,
        )
        self.key_set_reads = Counter(
            "callgate_workload_key_set_reads_total",
            "Reads of the issuer's key set, by result: `ok` or `failed`.",
            ["result"],
            registry=registry,
        )
        self.key_set_stale = Gauge(
            "callgate_workload_key_set_stale",
            "1 if the last read of the key set failed or found no usable key; otherwise 0.",
            registry=registry,
        )
        self.key_set_read_at = Gauge(
            "callgate_workload_key_set_read_timestamp_seconds",
            "When the key set was read for the last time; 0: never.",
            registry=registry,
        )


class Metrics:
    """All metrics that /metrics serves. Labels come from short, fixed sets; ids, tenants and phone numbers are never labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._exposed: bytes | None = None
        self._exposed_at = 0.0
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Gauge(
            "callgate_build_info",
            "Always 1; the labels are the versions of Callgate and of Python.",
            ["version", "python"],
            registry=self.registry,
        ).labels(__version__, platform.python_version()).set(1)
        self.http = HttpMetrics(self.registry)
        self.calls = CallMetrics(self.registry)
        self.twilio = TwilioMetrics(self.registry)
        self.callbacks = CallbackMetrics(self.registry)
        self.workloads = WorkloadMetrics(self.registry)
        self._database_connections = Gauge(
            "callgate_database_connections",
            "Database connections of this process by pool: the number allowed and the number in use.",
            ["pool", "state"],
            registry=self.registry,
        )

    def register_pool(self, pool: str, *, size: int, in_use: Callable[[], int]) -> None:
        """Adds a pool of database connections to the gauge `callgate_database_connections`.

        `size` is the maximum number of connections. Each scrape of the metrics calls `in_use`, which returns the number in use.
        """
        self._database_connections.labels(pool, "allowed").set(size)
        self._database_connections.labels(pool, "in_use").set_function(in_use)

    def exposition(self) -> bytes:
        """Returns the metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def cached_exposition(self) -> bytes:
        """Returns the metrics in the Prometheus text format. They are at most EXPOSITION_INTERVAL_S seconds old.

        More frequent calls of this method return the same bytes again.
        """
        now = time.monotonic()
        if self._exposed is None or now - self._exposed_at >= EXPOSITION_INTERVAL_S:
            self._exposed, self._exposed_at = self.exposition(), now
        return self._exposed

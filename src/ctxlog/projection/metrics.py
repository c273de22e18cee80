"""The figures of a projector for Prometheus: text over HTTP, on this machine alone.

The format is version 0.0.4 of Prometheus' exposition formats: a line HELP, a line TYPE, then the samples of one metric.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from ctxlog.errors import CtxlogError
from ctxlog.projection.figures import REASONS, Figures

HOST = "127.0.0.1"
PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS_MAX = 10.0


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, float]]


def render(figures: Figures) -> str:
    """The figures as Prometheus reads them."""
    return "".join(
        f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
        + "".join(f"{metric.name}{labels} {value!r}\n" for labels, value in metric.samples)
        for metric in _metrics(figures)
    )


def _metrics(figures: Figures) -> Iterator[_Metric]:
    prefix = "ctxlog_projector"
    next_offsets, lags = figures.next_offsets, figures.lags
    yield _Metric(f"{prefix}_records_total", "counter", "Records projected by this process.", [("", figures.records)])
    yield _Metric(f"{prefix}_batches_total", "counter", "Transactions that they were kept in.", [("", figures.batches)])
    for name, text, values in (
        ("lag_events", "Offsets between the end of the partition and what is projected.", lags),
        (
            "lag_seconds",
            "For how long the first record that waits has been there; 0 where none waits.",
            {partition: figures.lag_seconds(partition) for partition in next_offsets},
        ),
        ("next_offset", "Everything below it is projected.", next_offsets),
    ):
        samples = [(f'{{partition="{partition}"}}', value) for partition, value in sorted(values.items())]
        yield _Metric(f"{prefix}_{name}", "gauge", text, samples)
    published, took = figures.published_at, figures.publish_seconds
    yield _Metric(
        f"{prefix}_published_timestamp_seconds",
        "gauge",
        "When this process last published, since 1970 UTC; 0 where it has not yet.",
        [("", published or 0.0)],
    )
    yield _Metric(f"{prefix}_last_publish_seconds", "gauge", "How long it took.", [("", took or 0.0)])
    paused = [(f'{{reason="{reason}"}}', int(figures.paused == reason)) for reason in REASONS]
    yield _Metric(f"{prefix}_paused", "gauge", "1 while it waits for room on the disk, for memory, or for the log.", paused)
    yield _Metric("process_start_time_seconds", "gauge", "When this process started, since 1970 UTC.", [("", figures.started_at)])


class _Handler(BaseHTTPRequestHandler):
    figures: Figures
    timeout = REQUEST_SECONDS_MAX
    server_version = "ctxlog"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = render(self.figures).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:
        """Say nothing: stderr is for people."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Who asked went away: nothing that concerns a projector."""


class Metrics:
    """Serves the figures until it is closed.

    Args:
        figures: Which.
        port: Of 127.0.0.1; 0 takes a free one.

    Attributes:
        url: Where they are.

    Raises:
        CtxlogError: The port cannot be had.
    """

    def __init__(self, figures: Figures, port: int) -> None:
        handler = type("_Handler", (_Handler,), {"figures": figures})
        try:
            self._server = _Server((HOST, port), handler)
        except OSError as error:
            raise CtxlogError(
                f"metrics: {HOST}:{port} cannot be listened on: {error.strerror}; nothing was projected. Name another port."
            ) from error
        self.url = f"http://{HOST}:{self._server.server_port}{PATH}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

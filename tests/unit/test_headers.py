"""Headers for other tools: which records get which, what is refused, and that nothing else depends on them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace

from ctxlog import Context, ContextLog
from ctxlog.client.headers import check_traceparent
from ctxlog.errors import IndeterminateError, InvalidInputError, RecordTooLargeError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import Event, FactSet, MessageAppended
from ctxlog.model.records import CONTROL_KEY, MAX_RECORD_BYTES, NewRecord, Placed
from writing import LosesAnswers, Wrapped

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SPAN = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False, trace_flags=trace.TraceFlags(0))
IN_SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
HI = MessageAppended(role="user", content="hi")
SET = FactSet(key="limit", value="5")


class Remembers(Wrapped):
    """Remembers what was appended, with its headers."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.appended: list[NewRecord] = []

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        self.appended += records
        return super().append(records)

    def headers(self) -> list[dict[str, bytes]]:
        """Of the events, in the order in which they were appended."""
        return [dict(record.headers) for record in self.appended if record.key != CONTROL_KEY]


@pytest.fixture
def backend() -> Remembers:
    return Remembers(MemoryLog(3))


@pytest.fixture
def context(backend: Remembers) -> Context:
    return ContextLog(backend).context("refunds/case-1")


@pytest.fixture
def in_span() -> Iterator[None]:
    with trace.use_span(trace.NonRecordingSpan(SPAN)):
        yield


# Traceparent


@pytest.mark.parametrize(
    "wrong",
    [
        "", "00", TRACE.upper(), f" {TRACE}", f"{TRACE}\n", f"{TRACE}-00", TRACE[:-1], TRACE.replace("-", "_"), TRACE.encode(), 5,
        "ff" + TRACE[2:], "01" + TRACE[2:], f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", TRACE.replace("4b", "4g"), TRACE.replace("4", "\u0664"),
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_refused_and_nothing_is_appended(backend: Remembers, context: Context, wrong: Any) -> None:
    for append in (
        lambda: context.append(HI, traceparent=wrong),
        lambda: context.append_each([(HI, {}), (HI, {"traceparent": wrong})]),
    ):
        with pytest.raises(InvalidInputError, match="traceparent: expected 00-TRACE-SPAN-FLAGS") as refused:
            append()
        assert "4bf92f3577b3" not in str(refused.value).lower()
    assert backend.appended == []
    assert check_traceparent(TRACE) == TRACE


def test_all_records_of_an_append_get_its_traceparent_and_publications_of_schemas_get_none(
    backend: Remembers, context: Context
) -> None:
    context.append([HI, SET, HI], traceparent=TRACE)
    context.append_each([(HI, {"traceparent": TRACE}), (HI, {})])
    context.add_message("user", "x", traceparent=None)
    traced = {"traceparent": TRACE.encode()}
    assert backend.headers() == [traced, traced, traced, traced, {}, {}]
    published = [record for record in backend.appended if record.key == CONTROL_KEY]
    assert len(published) == 2
    assert all(record.headers == () for record in published)


def test_the_current_span_is_taken_where_nothing_was_given(backend: Remembers, context: Context, in_span: None) -> None:
    context.append([HI, SET])
    context.append_each([(HI, {})])
    context.append(HI, traceparent=TRACE)
    context.append(HI, traceparent=None)
    context.fork("refunds/fork")
    span = {"traceparent": IN_SPAN.encode()}
    assert backend.headers() == [span, span, span, {"traceparent": TRACE.encode()}, {}, span]
    assert check_traceparent(IN_SPAN) == IN_SPAN


def test_outside_of_a_span_there_is_no_traceparent(backend: Remembers, context: Context) -> None:
    """OpenTelemetry then gives a span that is not valid: its ids are all zero."""
    context.append(HI)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(SPAN.trace_id, 0, is_remote=False))):
        context.append(HI)
    assert backend.headers() == [{}, {}]


def test_opentelemetry_that_is_just_being_imported_is_not_there_yet(
    backend: Remembers, context: Context, in_span: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", types.ModuleType("opentelemetry.trace"))
    context.append(HI)
    assert backend.headers() == [{}]


def test_opentelemetry_is_never_imported_by_ctxlog() -> None:
    script = """\
import sys
from ctxlog import ContextLog
ContextLog.open("memory:").context("a/b").add_message("user", "x", expected_version=0)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# CloudEvents


def test_events_get_the_attributes_of_cloudevents_where_that_is_wanted_and_control_records_never(backend: Remembers) -> None:
    log = ContextLog(backend, cloudevents=True)
    at = datetime(2026, 11, 22, 14, 2, 0, 5, tzinfo=UTC)
    log.context("refunds/case-1").append([HI, SET], event_ids=["m1", "m2"], occurred_at=at, traceparent=TRACE)
    first, second = backend.headers()
    assert first == {
        "traceparent": TRACE.encode(),
        "ce_specversion": b"1.0",
        "ce_id": b"m1",
        "ce_source": f"/ctxlog/{backend.log_id}/refunds/case-1".encode(),
        "ce_type": b"ctxlog.MessageAppended",
        "ce_subject": b"refunds/case-1",
        "ce_time": b"2026-11-22T14:02:00.000005Z",
        "content-type": b"application/avro",
    }
    assert (second["ce_id"], second["ce_type"]) == (b"m2", b"ctxlog.FactSet")
    assert all(record.headers == () for record in backend.appended if record.key == CONTROL_KEY)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, b"1970-01-01T00:00:00.000000Z"),
        (-1, b"1969-12-31T23:59:59.999999Z"),
        (2**53 - 1, b"2255-06-05T23:47:34.740991Z"),
        (-(2**53) + 1, b"1684-07-28T00:12:25.259009Z"),
    ],
)
def test_the_time_is_rfc_3339_for_every_time_that_an_event_can_have(backend: Remembers, micros: int, text: bytes) -> None:
    ContextLog(backend, cloudevents=True).context("a/b").append(HI, occurred_at=micros)
    assert backend.headers()[0]["ce_time"] == text


def test_an_event_of_unknown_time_has_no_time(backend: Remembers) -> None:
    ContextLog(backend, cloudevents=True).context("a/b").append(HI, occurred_at=None)
    assert "ce_time" not in backend.headers()[0]


def test_subjects_are_utf_8_and_sources_are_uri_references(backend: Remembers) -> None:
    ContextLog(backend, cloudevents=True).context("fälle/nr 1?#%").append(HI)
    (headers,) = backend.headers()
    assert headers["ce_subject"].decode() == "fälle/nr 1?#%"
    assert headers["ce_source"] == f"/ctxlog/{backend.log_id}/f%C3%A4lle/nr%201%3F%23%25".encode()


def test_one_event_id_in_two_streams_is_two_events_for_consumers_too(backend: Remembers) -> None:
    """Whoever reads CloudEvents may take equal source and id for a copy."""
    log = ContextLog(backend, cloudevents=True)
    for stream_id in ("a/b", "a/c"):
        log.context(stream_id).append(HI, event_ids=["m1"])
    assert len({(headers["ce_source"], headers["ce_id"]) for headers in backend.headers()}) == 2


def test_without_being_wanted_there_are_no_such_headers(backend: Remembers, context: Context) -> None:
    context.append(HI)
    assert backend.headers() == [{}]


# What depends on headers, and what must not


def test_a_record_is_too_large_if_its_headers_make_it_so() -> None:
    def backend_after(cloudevents: bool, length: int) -> Remembers:
        backend = Remembers(MemoryLog())
        ContextLog(backend, cloudevents=cloudevents).context("a/b").add_message("user", "x" * length, traceparent=TRACE)
        return backend

    length = MAX_RECORD_BYTES - 1_000
    length += MAX_RECORD_BYTES - backend_after(False, length).appended[-1].size
    assert backend_after(False, length).appended[-1].size == MAX_RECORD_BYTES
    with pytest.raises(RecordTooLargeError):
        backend_after(False, length + 1)
    with pytest.raises(RecordTooLargeError):
        backend_after(True, length)


@pytest.mark.parametrize("batch", [[HI], [HI, SET, HI]], ids=["one", "group"])
def test_resolving_appends_the_same_headers_again(batch: list[Event], in_span: None) -> None:
    backend = Remembers(MemoryLog(3))
    log = ContextLog(losing := LosesAnswers(backend), cloudevents=True)
    losing.fates = ["before"]
    with pytest.raises(IndeterminateError) as caught:
        log.context("a/b").append(batch, expected_version=0, traceparent=TRACE)
    assert backend.headers() == []
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert log.resolve(error).version == len(batch)
    found = [record for record in backend.appended if record.key != CONTROL_KEY]
    assert found == list(caught.value.records)
    assert [dict(record.headers)["traceparent"] for record in found] == [TRACE.encode()] * len(batch)
    assert all("ce_id" in dict(record.headers) for record in found)


def test_states_and_chain_heads_are_the_same_with_headers_and_without() -> None:
    def told(cloudevents: bool, **options: Any) -> tuple[Any, ...]:
        backend = Remembers(MemoryLog(3))
        context = ContextLog(backend, cloudevents=cloudevents).context("a/b")
        for number, batch in enumerate(([HI], [HI, SET], [SET])):
            ids = [f"{number}-{index}" for index in range(len(batch))]
            context.append(batch, event_ids=ids, occurred_at=number, **options)
        replay = context.replay()
        values = [record.value for record in backend.appended if record.key != CONTROL_KEY]
        return replay.state, replay.manifest.state_digest, [entry.digest for entry in context.history()], values

    assert told(True, traceparent=TRACE) == told(False, traceparent=None)

"""Generated histories mean the same on the backend as in the memory log, which is the reference.

Drafts become bytes once, some of them damaged; the same bytes go to both. Decisions and states are compared record by record and
version by version; offsets and times may differ, and nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxlog.audit.verify import verify
from ctxlog.client import ContextLog
from ctxlog.codec.avro import encode_event
from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import frame_confluent, frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.core.digests import chain_start
from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import LineageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.points import AtVersion
from ctxlog.model.records import NewRecord
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer
from ctxlog.testing.conformance.base import LogCase
from ctxlog.testing.strategies import EventDraft, histories, with_heads

STREAMS = ("planner/thread-1", "shared/plan")
TYPES = sorted(KNOWN_TYPES)
DAMAGES = (b"", b"\x00", b"\xc3\x01\x07")
"""What stands in place of a damaged record's first bytes."""


class AgreementCase(LogCase):
    """Arbitration and fold over the backend."""

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(drafts=histories(STREAMS, 40), partitions=st.sampled_from((1, 3)), fates=st.lists(st.integers(0, 19), max_size=40))
    def test_generated_histories_are_decided_and_folded_as_in_memory(
        self, tmp_path_factory: pytest.TempPathFactory, drafts: list[EventDraft], partitions: int, fates: list[int]
    ) -> None:
        reference = MemoryLog(partitions)
        log = self.create_log(tmp_path_factory.mktemp("agreement") / "log", partitions)
        try:
            for target in (reference, log):
                target.append(_publications(target))
            records = [
                _send(reference, draft, fates[number] if number < len(fates) else 1) for number, draft in enumerate(drafts)
            ]
            for start in range(0, len(records), 7):
                log.append(records[start : start + 7])
            for stream_id in STREAMS:
                assert _decisions(log, stream_id) == _decisions(reference, stream_id)
                assert _states(log, stream_id) == _states(reference, stream_id)
            assert verify(ContextLog(log)).problems == []
        finally:
            log.close()


def _publications(log: EventLog) -> list[NewRecord]:
    return [
        encode_control(partition, schema_published(log.log_id, shipped(name), number))
        for partition in range(log.partitions)
        for number, name in enumerate(TYPES)
    ]


def _send(log: MemoryLog, draft: EventDraft, fate: int) -> NewRecord:
    """Append one draft to the reference; the record that it became. `fate` chooses framing and damage."""

    def head_of(stream_id: str, version: int | None) -> str | None:
        replayer = Replayer(log)
        heads = [chain_start(stream_id), *(found.head for found in replayer.accepted(stream_id, replayer.end(stream_id)))]
        if version is None:
            return heads[-1].hex()
        return heads[version].hex() if 0 <= version < len(heads) else None

    draft = with_heads(draft, head_of)
    body = encode_event(draft.type, draft.meta, draft.payload)
    if fate % 2:
        value = frame_single_object(shipped(draft.type).fingerprint, body)
    else:
        value = frame_confluent(TYPES.index(draft.type), body)
    if fate == 0:
        value = value[:-1]
    elif fate > 20 - len(DAMAGES):
        value = DAMAGES[20 - fate] + value[3:]
    key = draft.meta["stream_id"].encode()
    if fate == 10:
        key = STREAMS[STREAMS[0].encode() == key].encode()
    record = NewRecord(partition_of(key, log.partitions), key, value)
    log.append([record])
    return record


def _decisions(log: EventLog, stream_id: str) -> list[tuple[Any, ...]]:
    """What became of each record, by its number in the stream."""
    replayer = Replayer(log)
    partition, end = replayer.reader.partition(stream_id), replayer.end(stream_id)
    numbers = {record.offset: number for number, record in enumerate(log.read(partition, 0, end, key=stream_id.encode()))}
    return [
        (
            numbers[entry.offset],
            numbers[entry.effect_offset],
            entry.outcome,
            entry.version,
            entry.type,
            entry.meta,
            entry.payload,
            entry.chain_head,
        )
        for entry in history(replayer, stream_id, end)
    ]


def _states(log: EventLog, stream_id: str) -> list[object]:
    """Digest and anomalies at each version; the kind of error where there is no state."""
    replayer = Replayer(log)
    found: list[object] = []
    for version in range(sum(1 for _ in replayer.accepted(stream_id, replayer.end(stream_id))) + 1):
        try:
            replay = replayer.replay(stream_id, AtVersion(version))
            found.append((replay.manifest.state_digest, replay.anomalies))
        except LineageError:
            found.append(LineageError)
    return found

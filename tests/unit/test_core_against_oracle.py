"""The library and the naive oracle agree on generated histories, through real bytes and a real log.

drafts -> Avro, framed either way, some of it damaged -> MemoryLog -> Replayer          -> decisions, states, digests
                      the same bytes, decoded by plain fastavro   -> oracle             -> decisions, states, digests
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from ctxlog.codec.avro import encode_event
from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import frame_confluent, frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.core.arbitration import Arbiter
from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import LineageError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtOffset, AtVersion
from ctxlog.model.records import EventRecord, NewRecord
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from ctxlog.testing.strategies import EventDraft, histories, with_heads

SCHEMAS = Path(__file__).parents[2] / "schemas"
STREAMS = ("planner/thread-1", "shared/plan")
TYPES = sorted(KNOWN_TYPES)

DAMAGES = ("cut", "trailing", "unknown schema", "no framing", "wrong key", "wrong partition", "not utf-8")
"""What happens to some records on their way: the first four and the last make them undecodable, the others misplaced."""


class Sent(NamedTuple):
    """One record as it went to the log, with what the oracle is told of it."""

    record: NewRecord
    told: oracle.OracleRecord


def plain_schema(type_name: str) -> Any:
    """The schema as a stranger would read it: from the file, by plain fastavro."""
    return fastavro.schema.load_schema(SCHEMAS / f"{type_name}.avsc")


PLAIN = {name: plain_schema(name) for name in TYPES}
DIGESTS = {
    name: oracle.hashlib.sha256(fastavro.schema.to_parsing_canonical_form(schema).encode()).digest()
    for name, schema in PLAIN.items()
}


class Play:
    """A log that a history was written to, and per stream what the oracle is told of it."""

    def __init__(self, partitions: int, step: int) -> None:
        self.log = MemoryLog(partitions, offset_step=step)
        self.told: dict[str, list[oracle.OracleRecord]] = {}
        for partition in range(partitions):
            self.log.append(
                [
                    encode_control(partition, schema_published(self.log.log_id, shipped(name), number))
                    for number, name in enumerate(TYPES)
                ]
            )

    def head_of(self, stream_id: str, version: int | None) -> str | None:
        heads = oracle.arbitrate(stream_id, self.told.get(stream_id, [])).heads
        if version is None:
            return heads[-1]
        return heads[version] if 0 <= version < len(heads) else None

    def send(self, draft: EventDraft, *, confluent: bool, damage: str | None) -> None:
        draft = with_heads(draft, self.head_of)
        stream_id = draft.meta["stream_id"]
        body = encode_event(draft.type, draft.meta, draft.payload)
        framed = (
            frame_confluent(TYPES.index(draft.type), body)
            if confluent
            else frame_single_object(shipped(draft.type).fingerprint, body)
        )
        key, partition, refused = stream_id.encode(), partition_of(stream_id.encode(), self.log.partitions), None
        match damage:
            case "cut":
                framed, refused = framed[:-1], "undecodable"
            case "trailing":
                framed, refused = framed + b"\x00", "undecodable"
            case "unknown schema":
                framed, refused = b"\xc3\x01" + b"\x07" * 8 + body, "undecodable"
            case "no framing":
                framed, refused = b"\x01" + body, "undecodable"
            case "not utf-8":
                # The second byte of the body is the first of the event id.
                framed, refused = framed[: -len(body)] + body[:1] + b"\xff" + body[2:], "undecodable"
            case "wrong key":
                # Stands under the other stream's name, in that stream's partition.
                other = STREAMS[STREAMS[0] == stream_id]
                key, partition, refused = other.encode(), partition_of(other.encode(), self.log.partitions), "misplaced"
            case "wrong partition" if self.log.partitions > 1:
                partition, refused = (partition + 1) % self.log.partitions, "misplaced"
        placed = self.log.append([NewRecord(partition, key, framed)])[0]
        if damage == "wrong partition" and refused:
            return  # No reader of the stream comes by there.
        if refused is None:
            datum = fastavro.schemaless_reader(BytesIO(body), PLAIN_NO_LOGICAL[draft.type], None)
            meta = datum.pop("meta")
            told = oracle.OracleRecord(
                placed.position.offset, draft.type, meta, datum, oracle.record_digest(DIGESTS[draft.type], key, body)
            )
        else:
            told = oracle.OracleRecord(placed.position.offset, "", None, None, b"", refused)
        self.told.setdefault(key.decode(), []).append(told)


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_logical_types(value) for name, value in node.items() if name != "logicalType"}
    return [_without_logical_types(item) for item in node] if isinstance(node, list) else node


PLAIN_NO_LOGICAL = {name: fastavro.parse_schema(_without_logical_types(schema)) for name, schema in PLAIN.items()}


@st.composite
def plays(draw: st.DrawFn) -> Play:
    """A history, written to a log of one or three partitions with or without gaps, some of it damaged."""
    drafts = draw(histories(STREAMS, 40))
    play = Play(draw(st.sampled_from((1, 3))), draw(st.sampled_from((1, 3))))
    for draft in drafts:
        fate = draw(st.integers(0, 39))
        play.send(draft, confluent=bool(fate % 2), damage=DAMAGES[fate // 2] if fate // 2 < len(DAMAGES) else None)
    return play


def state_by_oracle(play: Play, stream_id: str, version: int, lineage: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """The oracle's state at a version; None where the stream is a fork of what it says it is not."""
    accepted = oracle.arbitrate(stream_id, play.told.get(stream_id, [])).accepted[:version]
    alone, _ = oracle.fold(stream_id, accepted)
    parent = alone["parent"]
    if parent is None:
        return alone
    if parent["version"] and parent["stream_id"] in (*lineage, stream_id):
        return None
    above = oracle.arbitrate(parent["stream_id"], play.told.get(parent["stream_id"], []))
    if parent["version"] > len(above.accepted) or above.heads[parent["version"]] != parent["chain_head"]:
        return None
    parent_state = state_by_oracle(play, parent["stream_id"], parent["version"], (*lineage, stream_id))
    return None if parent_state is None else oracle.fold(stream_id, accepted, parent_state)[0]


def check_states(play: Play, replayer: Replayer, stream_id: str) -> None:
    judged = oracle.arbitrate(stream_id, play.told[stream_id])
    for version in range(len(judged.accepted) + 1):
        expected = state_by_oracle(play, stream_id, version)
        if expected is None:
            with pytest.raises(LineageError):
                replayer.replay(stream_id, AtVersion(version))
            continue
        found = replayer.replay(stream_id, AtVersion(version))
        assert found.state.to_dict() == expected
        assert found.manifest.state_digest == oracle.state_digest(expected)
        assert found.manifest.chain_head == judged.heads[version]
        position = found.manifest.position
        assert (position.offset if position else None) == (judged.accepted[version - 1][1] if version else None)


@given(plays())
def test_arbitration_and_fold_agree_with_the_oracle_on_every_record_and_at_every_version(play: Play) -> None:
    """Sections 4 and 5: every reader reaches the same decisions, and the same states byte for byte."""
    replayer = Replayer(play.log)
    for stream_id, told in play.told.items():
        judged = oracle.arbitrate(stream_id, told)
        entries = list(history(replayer, stream_id, replayer.end(stream_id)))
        found = {entry.offset: (entry.outcome.replace("open", "held"), entry.version) for entry in entries}
        assert found == judged.decisions
        check_states(play, replayer, stream_id)
        if state_by_oracle(play, stream_id, len(judged.accepted)) is not None:
            latest = replayer.replay(stream_id, AtVersion(len(judged.accepted)))
            parent = latest.state.parent
            above = None if parent is None else state_by_oracle(play, parent.stream_id, parent.version, (stream_id,))
            _, anomalies = oracle.fold(stream_id, judged.accepted, above)
            assert [anomaly._asdict() for anomaly in latest.anomalies] == anomalies


@given(plays())
def test_a_state_through_an_offset_is_that_of_the_events_decided_by_then(play: Play) -> None:
    replayer = Replayer(play.log)
    for stream_id, told in play.told.items():
        for record in told:
            upto = oracle.arbitrate(stream_id, [other for other in told if other.offset <= record.offset])
            if state_by_oracle(play, stream_id, len(upto.accepted)) is not None:
                assert replayer.replay(stream_id, AtOffset(record.offset)).state.chain_head == upto.head


@given(play=plays())
def test_states_through_snapshots_agree_with_the_oracle(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A snapshot goes through its real codec, with open appends and decided ids in it, and changes no byte of any answer."""
    store = SnapshotStore(tmp_path_factory.mktemp("snapshots") / "cache.sqlite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 3)
        for stream_id in play.told:
            first = Replayer(play.log, store)
            cursor = first.open(stream_id, end=first.end(stream_id))
            first.advance(cursor, first.end(stream_id))
            check_states(play, Replayer(play.log, store), stream_id)
    store.close()


def _events(play: Play, stream_id: str) -> Iterator[EventRecord]:
    replayer = Replayer(play.log)
    for _, event in replayer.reader.records(stream_id, 0, replayer.end(stream_id)):
        if isinstance(event, EventRecord):
            yield event


@given(plays(), st.integers(1, 6), st.integers(1, 3))
def test_arbitration_agrees_with_the_oracle_where_ids_are_forgotten_and_appends_abandoned(
    play: Play, ids: int, opens: int
) -> None:
    """The limits of rules 1, made so small that short histories reach them."""
    for stream_id, told in play.told.items():
        judged = oracle.arbitrate(stream_id, told, decided_ids_max=ids, open_appends_max=opens)
        arbiter = Arbiter(stream_id, decided_max=ids, open_max=opens)
        found: dict[int, tuple[str, int | None]] = {}
        for event in _events(play, stream_id):
            verdict = arbiter.offer(event)
            found.update({rejected.offset: (rejected.reason, None) for rejected in verdict.rejected})
            found.update({accepted.event.offset: ("accepted", accepted.version) for accepted in verdict.accepted})
        expected = {
            offset: outcome
            for offset, outcome in judged.decisions.items()
            if outcome[0] not in ("held", "undecodable", "misplaced")
        }
        assert found == expected
        assert arbiter.head.hex() == judged.head
        assert arbiter.targets == judged.targets


def test_the_state_digest_is_over_the_rfc_8785_form() -> None:
    """The oracle digests with the reference implementation; keys beyond the BMP sort by UTF-16, not by code point."""
    play = Play(1, 1)
    meta = {
        "event_id": "e", "stream_id": "s", "agent_id": None, "actor": "system:t", "occurred_at": None, "scope": "default",
        "append": None, "precondition": None, "trace": None, "privacy": None,
    }  # fmt: skip
    for number, key in enumerate(("\ue000", "\U0001f600", "z", "\u00e9")):
        payload = {"key": key, "value": json.dumps(number), "valid_from": None, "valid_to": None, "expires_at": None}
        play.send(
            EventDraft("ctxlog.FactSet", meta | {"event_id": f"e{number}", "target": f"fact:{key}"}, payload),
            confluent=False,
            damage=None,
        )
    check_states(play, Replayer(play.log), "s")

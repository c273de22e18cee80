"""A stranger with a plain Kafka producer, who knows a log's format and does what he likes with it.

What he sends comes with what must become of it, said here and not worked out by ctxlog:

    accepted                    a well-formed event of the stream that its key names; arbitration decides as about any other
    undecodable, misplaced      rejected, and seen by readers of the stream that the key names
    void                        a control record without effect
    effect                      a control record with one
    elsewhere                   misplaced, where no reader of the stream comes by
    aborted                     in a transaction that never was
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import fastavro
import rfc8785
from confluent_kafka import Producer

import oracle
from ctxlog.codec.avro import encode_event
from ctxlog.codec.control import copy_finished, copy_started, encode_control, genesis, schema_published, topic_adopted
from ctxlog.codec.framing import frame_confluent, frame_single_object
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.core.partitioner import partition_of
from ctxlog.model.records import CONTROL_KEY, Origin
from unit.hostile import BOMBS, FORBIDDEN, RICH, event_schema
from unit.test_core_against_oracle import DIGESTS, PLAIN_NO_LOGICAL, TYPES
from unit.test_hostile_logs import control
from writing import PAYLOADS, foreign_schema, meta_of

FIRST_ID = 100
"""Registry id of the first shipped type; the others follow."""

OTHER_LOG = "00000000-0000-4000-8000-000000000000"
Headers = list[tuple[str, str | bytes | None]]


class Foreign(NamedTuple):
    """One record, and what must become of it."""

    name: str
    outcome: str
    key: bytes | None
    value: bytes | None
    partition: int
    headers: Headers | None = None


class Plain(NamedTuple):
    """A schema as somebody reads it who has only fastavro."""

    name: str
    node: Any
    digest: bytes


class Stranger:
    """Writes to the topic of a log. Everything that is random here comes from the seed."""

    def __init__(self, bootstrap: str, topic: str, log_id: str, partitions: int, seed: object) -> None:
        self.topic, self.log_id, self.partitions = topic, log_id, partitions
        self.dice = random.Random(str(seed))
        self.sent: dict[tuple[int, int], Foreign] = {}
        self.known: dict[bytes, Plain] = {}
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "message.max.bytes": 2_000_000})
        self._numbers = iter(range(10**9))
        for number, name in enumerate(TYPES):
            plain = Plain(name, PLAIN_NO_LOGICAL[name], DIGESTS[name])
            self.known[frame_single_object(shipped(name).fingerprint, b"")] = plain
            self.known[frame_confluent(FIRST_ID + number, b"")] = plain

    def send(self, records: Iterable[Foreign], producer: Producer | None = None) -> None:
        """Send records, in this order in each partition; returns when all are there."""
        failed: list[object] = []

        def report(foreign: Foreign) -> Callable[[Any, Any], None]:
            def reported(error: Any, message: Any) -> None:
                if error is not None:
                    failed.append(error)
                self.sent[message.partition(), message.offset()] = foreign

            return reported

        producer = producer or self._producer
        for foreign in records:
            producer.produce(
                self.topic, foreign.value, foreign.key, foreign.partition, headers=foreign.headers, on_delivery=report(foreign)
            )
        assert producer.flush(60) == 0
        assert failed == []

    # What he knows

    def place(self, stream_id: str) -> int:
        return partition_of(stream_id.encode(), self.partitions)

    def fresh(self) -> str:
        return f"stranger-{next(self._numbers)}"

    def plain_of(self, value: bytes) -> tuple[Plain, bytes] | None:
        """The schema that a value's prefix names, and its body."""
        size = 10 if value[:2] == b"\xc3\x01" else 5
        found = self.known.get(value[:size])
        return None if found is None else (found, value[size:])

    # Well-formed records

    def schemas(self) -> list[Foreign]:
        """Publications of everything that is shipped, each with a registry id, in each partition."""
        return [
            self.control("shipped schema", "effect", partition, schema_published(self.log_id, shipped(name), FIRST_ID + number))
            for partition in range(self.partitions)
            for number, name in enumerate(TYPES)
        ]

    def control(self, name: str, outcome: str, partition: int, what: Any) -> Foreign:
        return Foreign(name, outcome, CONTROL_KEY, encode_control(partition, what).value, partition)

    def event(self, stream_id: str, body: bytes, type_name: str, name: str = "event", headers: Headers | None = None) -> Foreign:
        """A shipped event, in either framing."""
        if self.dice.random() < 0.5:
            value = frame_confluent(FIRST_ID + TYPES.index(type_name), body)
        else:
            value = frame_single_object(shipped(type_name).fingerprint, body)
        return Foreign(name, "accepted", stream_id.encode(), value, self.place(stream_id), headers)

    def message(self, stream_id: str, name: str = "event", headers: Headers | None = None) -> Foreign:
        meta = meta_of(stream_id, self.fresh())
        body = encode_event("ctxlog.MessageAppended", meta, PAYLOADS["MessageAppended"] | {"content": meta["event_id"]})
        return self.event(stream_id, body, "ctxlog.MessageAppended", name, headers)

    # Everything else

    def bytes_of_all_kinds(self, stream_id: str) -> list[Foreign]:
        """Nothing, too little, and noise, with and without a key."""
        key, place, dice = stream_id.encode(), self.place(stream_id), self.dice
        values: list[bytes | None] = [None, b"", b"\x00", b"\xc3\x01", b"{}", b"\x80\x04."]
        values += [dice.randbytes(dice.randrange(1, 60)) for _ in range(3)]
        values += [prefix + dice.randbytes(dice.randrange(40)) for prefix in (b"\x00\xff", b"\xc3\x01\xff")]
        found = [Foreign("noise", "undecodable", key, value, place) for value in values]
        found += [Foreign("no key", "undecodable", None, value, place) for value in (None, b"", b"x")]
        found += [Foreign("no key", "misplaced", None, self.message(stream_id).value, place)]
        keys = (b"", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"k" * 10_000)
        return found + [Foreign("noise under another key", "undecodable", key, b"x", place) for key in keys]

    def names_of_no_schema(self, stream_id: str) -> list[Foreign]:
        """Right bodies behind fingerprints and registry ids that were never published."""
        good = self.message(stream_id)
        found = self.plain_of(good.value or b"")
        assert found is not None
        body = found[1]
        values = [
            frame_single_object("00" * 8, body),
            frame_single_object(shipped("ctxlog.MessageAppended").fingerprint[::-1], body),
            frame_single_object(shipped("ctxlog.ControlRecord").fingerprint, body),
            frame_confluent(0, body),
            frame_confluent(FIRST_ID - 1, body),
            frame_confluent(2**32 - 1, body),
            b"\x01" + body,
        ]
        return [good._replace(name="no such schema", outcome="undecodable", value=value) for value in values]

    def damaged_bodies(self, stream_id: str) -> list[Foreign]:
        """Cut off, with something left over, twice, not UTF-8: in both framings."""
        found = []
        for _ in range(4):
            good = self.message(stream_id)
            value = good.value or b""
            plain = self.plain_of(value)
            assert plain is not None
            head, body = value[: -len(plain[1])], plain[1]
            bodies = (
                body[:-1],
                body[: self.dice.randrange(len(body))],
                body + b"\x00",
                body * 2,
                body[:1] + b"\xff" + body[2:],
                b"",
            )
            found += [good._replace(name="damaged", outcome="undecodable", value=head + damaged) for damaged in bodies]
        return found

    def bombs(self, stream_id: str, count: int | None = None) -> list[Foreign]:
        """Bodies that are made to break a decoder, under a schema that is allowed; the last one is sound, and says so."""
        schema = Schema(event_schema(a=RICH))
        prefix = frame_single_object(schema.fingerprint, b"")
        plain = fastavro.parse_schema(json.loads(schema.text))
        self.known[prefix] = Plain(schema.name, plain, schema.digest)
        meta = encode_event("ctxlog.StreamClosed", meta_of(stream_id, "bomb"), {"reason": None})[:-1]
        place, key = self.place(stream_id), stream_id.encode()
        published = schema_published(self.log_id, schema, None)
        outcome = "effect" if not self._published(schema, place) else "void"
        found = [self.control("schema of bombs", outcome, place, published)]
        bombs = list(BOMBS.values())
        if count is not None:
            bombs = self.dice.sample([bomb for bomb in bombs if len(bomb) < 100_000], count)
        found += [Foreign("bomb", "undecodable", key, prefix + meta + bomb, place) for bomb in bombs]
        sound = BytesIO()
        rich = {"texts": ["a"], "table": {"k": [None, 1]}, "leaf": None, "leaves": [], "numbers": [0.5], "ratio": 1.0}
        fastavro.schemaless_writer(sound, plain, {"meta": meta_of(stream_id, self.fresh()), "a": rich})
        return [*found, Foreign("no bomb", "accepted", key, prefix + sound.getvalue(), place)]

    def _published(self, schema: Schema, partition: int) -> bool:
        fingerprint = f'"fingerprint":"{schema.fingerprint}"'.encode()
        return any(
            partition == where and sent.outcome == "effect" and fingerprint in (sent.value or b"")
            for (where, _), sent in self.sent.items()
        )

    def too_long(self, stream_id: str) -> list[Foreign]:
        """A body above 1 MiB, which the topic takes and no reader does."""
        meta = meta_of(stream_id, self.fresh())
        body = encode_event("ctxlog.MessageAppended", meta, PAYLOADS["MessageAppended"] | {"content": "a" * 1_048_577})
        return [self.event(stream_id, body, "ctxlog.MessageAppended", "too long")._replace(outcome="undecodable")]

    def misplaced(self, stream_id: str) -> list[Foreign]:
        """The right event in another partition, and under another key."""
        good, other = self.message(stream_id), self.message(stream_id)
        away = good._replace(name="other partition", outcome="elsewhere", partition=(good.partition + 1) % self.partitions)
        other_id = next(name for name in map("other/{}".format, range(1000)) if self.place(name) == self.place(stream_id))
        under = other._replace(name="key of another stream", outcome="misplaced", key=other_id.encode())
        into = self.message(other_id)._replace(name="in this stream", outcome="misplaced", key=stream_id.encode())
        no_text = self.message(stream_id)._replace(
            name="key that is no text", outcome="misplaced", key=b"\xff" + stream_id.encode()
        )
        return [away, under, into, no_text._replace(partition=partition_of(no_text.key or b"", self.partitions))]

    def void_publications(self, stream_id: str, count: int | None = None) -> list[Foreign]:
        """Schemas that no log may carry or that are published wrongly, each followed by an event that needs it."""
        place, name = self.place(stream_id), f"x.Void{next(self._numbers)}"
        schema = foreign_schema(name)
        right = schema_published(self.log_id, schema, 7_000 + next(self._numbers)).data
        wrong: list[dict[str, Any]] = [
            {"log_id": OTHER_LOG}, {"name": "x.Other"}, {"fingerprint": "00" * 8}, {"fingerprint": schema.fingerprint[::-1]},
            {"digest": "00" * 32}, {"digest": shipped("ctxlog.FactSet").digest.hex()}, {"registry_id": -1}, {"registry_id": "7"},
            {"schema": schema.text + " "  * 65_536}, {"schema": shipped("ctxlog.FactSet").text},
            {"schema": event_schema().replace("expected_head", "expected_tail")},
        ]  # fmt: skip
        wrong += [{"schema": text} for text in FORBIDDEN.values() if "\ud800" not in text]
        if count is not None:
            wrong = self.dice.sample(wrong, count)
        body = self._foreign_body(schema, stream_id)
        values = [frame_single_object(schema.fingerprint, body), frame_confluent(right["registry_id"], body)]
        found = []
        for changed in wrong:
            data = rfc8785.dumps(right | changed).decode()
            found.append(Foreign(f"publication {list(changed)}", "void", CONTROL_KEY, control("SchemaPublished", data), place))
            found += [Foreign("of a void schema", "undecodable", stream_id.encode(), value, place) for value in values]
        return found

    def second_claims(self, stream_id: str) -> list[Foreign]:
        """A fingerprint and a registry id that are taken; what they meant before, they mean still."""
        place = self.place(stream_id)
        again = schema_published(self.log_id, shipped("ctxlog.FactSet"), FIRST_ID)
        return [
            self.control("the same again", "void", place, schema_published(self.log_id, shipped(TYPES[0]), FIRST_ID)),
            self.control("another schema under an id", "void", place, again),
            *(self.message(stream_id, "after a second claim") for _ in range(4)),
        ]

    def controls(self, stream_id: str, count: int | None = None) -> list[Foreign]:
        """Control records that are forged, late, repeated or of no known kind."""
        place, log = self.place(stream_id), self.log_id
        found = [
            self.control(name, "void", place, what)
            for name, what in {
                "genesis again": genesis(log, None, self.partitions),
                "genesis of another log": genesis(OTHER_LOG, None, self.partitions),
                "genesis of other partitions": genesis(log, None, self.partitions + 1),
                "copy started late": copy_started(log, OTHER_LOG),
                "copy started in another log": copy_started(OTHER_LOG, log),
                "copy finished without a start": copy_finished(log, OTHER_LOG, undecodable=0, misplaced=0),
                "adopted in another log": topic_adopted(OTHER_LOG, "x"),
            }.items()
        ]
        data = rfc8785.dumps({"log_id": log}).decode()
        values = {
            "unknown kind": control("Nobody", data),
            "no kind": control("", data),
            "not canonical": control("HeadSigned", data + " "),
            "members missing": control("CopyStarted", data),
            "no JSON": control("Genesis", "{"),
            "noise": self.dice.randbytes(30),
            "nothing": b"",
            "no value": None,
            "an event": self.message(stream_id).value,
        }
        found += [Foreign(name, "void", CONTROL_KEY, value, place) for name, value in values.items()]
        return found if count is None else self.dice.sample(found, count)

    def headers(self, stream_id: str) -> list[Foreign]:
        """Headers of all kinds, forged origins among them: none of them counts."""
        origins = [Origin(self.log_id, 0, 1, 1), Origin(OTHER_LOG, 7, 2**40, 2**52), Origin("x", -1, -1, -(2**52))]
        all_of_them: list[Headers] = [[("ctxlog-origin", str(origin).encode())] for origin in origins]
        all_of_them += [
            [("ctxlog-origin", b"nonsense")], [("ctxlog-origin", None)], [("ctxlog-origin", b"\xff\xfe")],
            [("ctxlog-origin", str(origins[0])), ("ctxlog-origin", str(origins[1]))],
            [("traceparent", b"\xff"), ("", b""), ("\u00e9\U0001f600", None), ("ce_id", "x" * 1000), ("ce_id", "again")],
        ]  # fmt: skip
        return [self.message(stream_id, "with headers", headers) for headers in all_of_them]

    def other_namespaces(self, stream_id: str) -> list[Foreign]:
        """A type of somebody else: undecodable before its schema is published, then accepted, and without effect."""
        found = []
        for namespace in ("org.example", "ctxlogger", "Ctxlog", "ctx"):
            schema = foreign_schema(f"{namespace}.Note{next(self._numbers)}")
            registry_id = 5_000 + next(self._numbers)
            body = self._foreign_body(schema, stream_id)
            plain = Plain(schema.name, fastavro.parse_schema(json.loads(schema.text)), schema.digest)
            value = self.dice.choice((frame_single_object(schema.fingerprint, body), frame_confluent(registry_id, body)))
            self.known[value[: -len(body)]] = plain
            place = self.place(stream_id)
            found += [
                Foreign("before its schema", "undecodable", stream_id.encode(), value, place),
                self.control("somebody's schema", "effect", place, schema_published(self.log_id, schema, registry_id)),
                Foreign("somebody's event", "accepted", stream_id.encode(), value, place),
            ]
        return found

    def _foreign_body(self, schema: Schema, stream_id: str) -> bytes:
        body = BytesIO()
        datum = {"meta": meta_of(stream_id, self.fresh()), "key": "x"}
        fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(schema.text)), datum)
        return body.getvalue()

    def everything(self, stream_id: str) -> list[Foreign]:
        """All of it, once."""
        kinds = (
            self.bytes_of_all_kinds, self.names_of_no_schema, self.damaged_bodies, self.bombs, self.too_long, self.misplaced,
            self.void_publications, self.second_claims, self.controls, self.headers, self.other_namespaces,
        )  # fmt: skip
        return [foreign for kind in kinds for foreign in kind(stream_id)]

    def something(self, stream_id: str) -> list[Foreign]:
        """Some of it."""
        some = {
            self.bytes_of_all_kinds: 3, self.names_of_no_schema: 2, self.damaged_bodies: 3, self.misplaced: 4, self.headers: 3,
        }  # fmt: skip
        whole = (
            self.second_claims, self.other_namespaces, lambda name: self.bombs(name, 3), lambda name: self.controls(name, 3),
            lambda name: self.void_publications(name, 3),
        )  # fmt: skip
        if self.dice.random() < 0.02:
            return self.too_long(stream_id)
        kind: Any = self.dice.choice((*some, *whole))
        found: list[Foreign] = kind(stream_id)
        return self.dice.sample(found, some[kind]) if kind in some else found

    # Told to the oracle

    def told(self, records: Sequence[Any]) -> dict[str, list[oracle.OracleRecord]]:
        """What the oracle is told of each stream, from messages of a plain consumer: foreign ones as they were meant."""
        found: dict[str, list[oracle.OracleRecord]] = {}
        for message in records:
            partition, offset, key, value = message.partition(), message.offset(), message.key(), message.value()
            foreign = self.sent.get((partition, offset))
            assert foreign is None or foreign.outcome != "aborted"
            if key in (None, CONTROL_KEY) or partition_of(key, self.partitions) != partition:
                continue
            try:
                stream_id = key.decode()
            except UnicodeDecodeError:
                continue
            if foreign is not None and foreign.outcome != "accepted":
                told = oracle.OracleRecord(offset, "", None, None, b"", foreign.outcome)
            else:
                named = self.plain_of(value)
                assert named is not None
                plain, body = named
                datum: Any = fastavro.schemaless_reader(BytesIO(body), plain.node, None)
                meta = datum.pop("meta")
                told = oracle.OracleRecord(offset, plain.name, meta, datum, oracle.record_digest(plain.digest, key, body))
            found.setdefault(stream_id, []).append(told)
        return found


class Transactions:
    """A stranger's transactions, most of which come to nothing."""

    def __init__(self, bootstrap: str) -> None:
        name = f"stranger-{time.time_ns()}"
        self.producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 0})
        self.producer.init_transactions(60)

    def send(self, stranger: Stranger, records: Sequence[Foreign], *, commit: bool) -> None:
        self.producer.begin_transaction()
        outcome = None if commit else "aborted"
        stranger.send([one._replace(outcome=outcome or one.outcome) for one in records], self.producer)
        (self.producer.commit_transaction if commit else self.producer.abort_transaction)(60)

"""What a stranger reads first in an evidence bundle: what it is, how to check it without ctxlog, and what it does not show."""

from __future__ import annotations


def readme(about: str, log_id: str, records: int) -> str:
    """The text, as Markdown."""
    return _README.format(about=about, log_id=log_id, records=records)


_README = """\
# Evidence: {about}

This is an evidence bundle of the context log {log_id}. It holds what an AI agent had read when it made a decision, what
it decided, and what it did about it: {records} records, byte for byte as the log stored them, with the proof that each
of them is under a signed head. It can be checked without access to the log, offline, and without trusting whoever made
it, by two means:

- `pip install ctxlog`, then `ctxlog verify --bundle THIS_FILE --key PUBLIC_KEY`
- any program that does the steps below; they need SHA-256, Ed25519, Avro and JSON.

Get the public key from somebody you trust, by another way than this file. Without it, the bundle proves nothing.

## Steps

1. `bundle.json` names every other file with its SHA-256. Compare.
2. `heads/N.txt` is a signed note (C2SP signed-note, tlog-checkpoint) about partition N of the log: `ctxlog/LOG_ID/N`,
   the number of records, and the root of the Merkle tree over them (RFC 9162). Check the Ed25519 signature by your key.
3. Each line of `records.jsonl` is a record. Its record digest: SHA-256(01 || P(schema digest) || P(key) || P(body)),
   where P(b) is the length of b in 4 bytes, big-endian, and b; P(null) is FFFFFFFF; the value is C3 01, the 8 bytes of
   the schema's fingerprint, and the body (or 00, 4 bytes, and the body, where a registry was used); the schema digest
   is the SHA-256 of the schema's Avro Parsing Canonical Form, and the schema is in `schemas/FINGERPRINT.avsc`. Its
   leaf: SHA-256(00 || offset || recorded_at || P(origin or null) || record digest), the two numbers in 8 bytes,
   big-endian. With `leaf` (its number) and `path` it leads to the root of its head: RFC 9162, 2.1.3.2.
4. Decode the bodies with their schemas. `DecisionRecorded` names its reads, events of type `ContextRead` in the same
   stream. A read names a stream, a version and a chain head.
5. The chain head of a stream after n events is SHA-256(chain head after n-1 || record digest of the n-th event); after
   none it is SHA-256("ctxlog:chain:1" || stream id). `version` in a line says which event of its stream (the key) a record
   is; null says that it does not count. Take them in the order of versions: what was read is complete and unchanged where
   the chain head is the one that the read names.
6. `report.json` is what ctxlog made of it all. Under `reads` it has what each read gave, word for word: the `messages`,
   `facts` and `tool_calls` of `released`. SHA-256 over the RFC 8785 JSON of these three, with `stream_id`, `version` and
   `chain_head` of the read, is the `selection_digest` that the `ContextRead` has.

## What it does not show

- That these are all records of their streams. What a decision had read is complete (step 5); what came later may have
  been left out.
- That times named occurred, started, ended or judged are right: they are claims of the writers' clocks.
- What the agent saw without the log, and that the model answered as recorded.

The format is defined in ctxlog's documentation, `docs/reference/bundle.md`.
"""

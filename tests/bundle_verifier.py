"""A second verifier of evidence bundles, written from their README alone: no line of ctxlog is used here.

    python bundle_verifier.py BUNDLE PUBLIC_KEY

Prints `verified`, or the first thing that is wrong, and then exits with 1.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import fastavro
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class WrongError(Exception):
    """Something is not as the README says."""


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def prefixed(data: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if data is None else len(data).to_bytes(4, "big") + data


def is_signed(note: str, public: str) -> bool:
    text, _, signatures = note.rpartition("\n\n")
    name, key_id, key = public.split("+", 2)
    for line in signatures.splitlines():
        _, signer, signature = line.split(" ")
        raw = base64.b64decode(signature)
        if signer == name and raw[:4].hex() == key_id:
            try:
                Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:]).verify(raw[4:], (text + "\n").encode())
            except InvalidSignature:
                return False
            return True
    return False


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """RFC 9162, 2.1.3.2."""
    fn, sn, found = index, size - 1, leaf
    for step in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            found = sha(b"\x01" + step + found)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = sha(b"\x01" + found + step)
        fn, sn = fn >> 1, sn >> 1
    return found if sn == 0 and 0 <= index < size else None


def verify(path: Path, public: str) -> None:
    files = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            files[name] = archive.read(name)
    contents = json.loads(files["bundle.json"])
    for name, digest in contents["files"].items():  # Step 1.
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise WrongError(f"{name}: another digest")
    heads = {}
    for partition in range(contents["partitions"]):  # Step 2.
        note = files[f"heads/{partition}.txt"].decode()
        origin, size, root = note.split("\n")[:3]
        if origin != f"ctxlog/{contents['log_id']}/{partition}" or not is_signed(note, public):
            raise WrongError(f"heads/{partition}.txt: not signed by this key")
        heads[partition] = int(size), base64.b64decode(root)
    schemas = {}
    for name, text in files.items():
        if name.startswith("schemas/"):
            schema = json.loads(text)
            canonical = fastavro.schema.to_parsing_canonical_form(schema)
            schemas[name[8:-5]] = sha(canonical.encode()), fastavro.parse_schema(schema), schema["name"]
    events: dict[str, dict[int, bytes]] = {}
    reads, decisions = {}, {}
    for line in files["records.jsonl"].splitlines():  # Steps 3 to 5.
        record = json.loads(line)
        where = f"record {record['partition']}@{record['offset']}"
        key, value = base64.b64decode(record["key"]), base64.b64decode(record["value"])
        if value[:2] != b"\xc3\x01" or value[2:10].hex() not in schemas:
            raise WrongError(f"{where}: no schema")
        schema_digest, schema, type_name = schemas[value[2:10].hex()]
        digest = sha(b"\x01" + prefixed(schema_digest) + prefixed(key) + prefixed(value[10:]))
        origin = None if record["origin"] is None else record["origin"].encode()
        place = record["offset"].to_bytes(8, "big") + record["recorded_at"].to_bytes(8, "big")
        leaf = sha(b"\x00" + place + prefixed(origin) + digest)
        size, root = heads[record["partition"]]
        if root_of(leaf, record["leaf"], size, [base64.b64decode(step) for step in record["path"]]) != root:
            raise WrongError(f"{where}: not under the signed head")
        if record["version"] is None:
            continue
        events.setdefault(key.decode(), {})[record["version"]] = digest
        event = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
        if type_name == "ContextRead":
            reads[event["meta"]["event_id"]] = event
        if type_name == "DecisionRecorded":
            decisions[event["decision_id"]] = event
    report = json.loads(files["report.json"])
    decision: Any = decisions.get(contents["about"].get("decision", ""))
    if decision is None:
        raise WrongError("the decision is not among the records")
    told = {record["event_id"]: read for read in report["reads"] for record in read["records"]}
    for read_id in decision["reads"]:
        if read_id not in reads or read_id not in told:
            raise WrongError(f"read {read_id}: not there")
        for read in reads[read_id]["streams"]:
            head = sha(b"ctxlog:chain:1" + read["stream_id"].encode())
            for version in range(1, read["version"] + 1):
                head = sha(head + events[read["stream_id"]][version])
            if head.hex() != read["chain_head"]:
                raise WrongError(f"read {read_id}: another chain head")
        given = {name: told[read_id][name] for name in ("stream_id", "version", "chain_head")}  # Step 6.
        given |= told[read_id]["released"]
        if hashlib.sha256(rfc8785.dumps(given)).hexdigest() != reads[read_id]["selection_digest"]:
            raise WrongError(f"read {read_id}: another selection digest")


if __name__ == "__main__":
    try:
        verify(Path(sys.argv[1]), sys.argv[2])
    except (WrongError, KeyError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"broken: {error}")
    print("verified")

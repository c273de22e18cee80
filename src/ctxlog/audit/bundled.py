"""Check an evidence bundle with nothing but itself and a public key.

signatures, then every record under its head
  -> a log of these records alone -> the audit that `audit.bundling` made -> the same report
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.audit.auditing import audited
from ctxlog.audit.bundle import Bundle, read_bundle
from ctxlog.audit.bundling import BundleLog, schemas_of, versions_of
from ctxlog.audit.notes import VerifyKey
from ctxlog.audit.report import AuditReport
from ctxlog.audit.tree import Leaves
from ctxlog.audit.verify import Problem
from ctxlog.core.proofs import check_inclusion
from ctxlog.errors import CtxlogError, IntegrityError, NoteError, ProofError
from ctxlog.model.records import CONTROL_KEY

VERIFIED, BROKEN = "verified", "broken"

NOT_SHOWN = (
    "That the records of these streams are all that the log has of them: a bundle shows what is in it. What a decision read is "
    "complete, because the chain head that it recorded counts every event; what came later may have been left out.",
    "That no other decision of this id was recorded in a stream that is not here.",
)
"""What a bundle cannot show, beside what no report shows."""


class HeadChecked(NamedTuple):
    """A partition's head: its size, the offset of its last record as the bundle says, and the keys that signed it."""

    partition: int
    size: int
    last_offset: int
    keys: tuple[str, ...]


class BundleReport(NamedTuple):
    """What the check of a bundle found.

    Attributes:
        about: What the bundle is about.
        log_id: The log.
        records: Number of records that were checked.
        heads: The heads, with who signed them.
        audit: What the audit over the records found; None where nothing could be audited.
        problems: Everything that is not as it must be.
    """

    about: str
    log_id: str
    records: int
    heads: tuple[HeadChecked, ...]
    audit: AuditReport | None
    problems: tuple[Problem, ...]

    @property
    def verdict(self) -> str:
        """`verified` or `broken`."""
        return BROKEN if self.problems else VERIFIED

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "verdict": self.verdict,
            "about": self.about,
            "log_id": self.log_id,
            "records": self.records,
            "heads": [head._asdict() for head in self.heads],
            "audit": None if self.audit is None else self.audit.to_dict(),
            "problems": [problem._asdict() for problem in self.problems],
            "not_shown": list(NOT_SHOWN),
        }


def verify_bundle(path: Path, keys: Sequence[VerifyKey]) -> BundleReport:
    """Check a bundle, offline and without any log.

    Args:
        path: The file.
        keys: Who is trusted. A head that none of them signed is a problem.

    Raises:
        BundleError: It is no bundle, or was changed.
    """
    bundle = read_bundle(path)
    problems: list[Problem] = []
    heads = tuple(_head(bundle, partition, keys, problems) for partition in range(bundle.partitions))
    _records(bundle, problems)
    report = None
    if not problems:
        report = _audit(bundle, problems)
    return BundleReport(str(bundle.about), bundle.log_id, len(bundle.records), heads, report, tuple(problems))


def _head(bundle: Bundle, partition: int, keys: Sequence[VerifyKey], problems: list[Problem]) -> HeadChecked:
    head, where = bundle.heads[partition], f"heads/{partition}.txt"
    if (head.log_id, head.partition) != (bundle.log_id, partition):
        problems.append(Problem(where, f"a head of partition {partition} of log {bundle.log_id}", "another one's"))
    signers: tuple[VerifyKey, ...] = ()
    try:
        signers = head.note.signed_by(keys)
    except NoteError as error:
        problems.append(Problem(where, "signatures that hold", error.reason))
    else:
        if not signers:
            named = ", ".join(sorted({signature.name for signature in head.note.signatures})) or "nobody"
            problems.append(Problem(where, "the signature of a key that is trusted", f"those of {named}"))
    return HeadChecked(partition, head.size, bundle.ends.get(partition, 0) - 1, tuple(key.short for key in signers))


def _records(bundle: Bundle, problems: list[Problem]) -> None:
    """Every record under its head."""
    leaves = {partition: Leaves(partition) for partition in range(bundle.partitions)}
    for record, proof, _ in bundle.records:
        try:
            check_inclusion(proof, leaves[record.partition].next(record), bundle.heads[record.partition].root)
        except (ProofError, OverflowError) as error:
            reason = error.reason if isinstance(error, ProofError) else "it has no place in a tree"
            problems.append(Problem(f"record {record.partition}@{record.offset}", "a record under the signed head", reason))
        except IntegrityError as error:
            problems.append(Problem(f"record {record.partition}@{record.offset}", "a record under the head", str(error)))
    for name, text in schemas_of(one.record for one in bundle.records):
        if bundle.schemas.get(name) != text:
            problems.append(Problem(name, "the schema that the log published", "another text, or none"))


def _audit(bundle: Bundle, problems: list[Problem]) -> AuditReport | None:
    """The audit over these records, which must find what the report says, and the versions that the bundle says."""
    log = BundleLog(bundle.log_id, bundle.partitions, bundle.ends, (one.record for one in bundle.records))
    try:
        report = audited(log, bundle.about)
        keys = {key for one in bundle.records if (key := one.record.key) is not None and key != CONTROL_KEY}
        versions = versions_of(log, keys)
    except (CtxlogError, UnicodeDecodeError) as error:
        problems.append(Problem(str(bundle.about), "records that it can be audited by", str(error)))
        return None
    for record, _, version in bundle.records:
        if (made := versions.get((record.partition, record.offset))) != version:
            problems.append(Problem(f"record {record.partition}@{record.offset}", f"version {made}", f"version {version}"))
    problems.extend(Problem(check.where, f"{check.what}: {check.expected}", check.found) for check in report.failed)
    found = report.to_dict()
    for name in sorted(found.keys() | bundle.report.keys()):
        if found.get(name) != bundle.report.get(name):
            problems.append(Problem(f"report.json {name}", "what these records amount to", "something else"))
    return report

"""Evidence bundles: whole, checked by two programs that share no line, and broken by whatever is changed in them."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle_verifier import WrongError
from bundle_verifier import verify as verify_alone
from ctxlog import ContextLog
from ctxlog.audit.auditing import About, audited
from ctxlog.audit.bundle import read_bundle
from ctxlog.audit.bundled import verify_bundle
from ctxlog.audit.bundling import make_bundle
from ctxlog.audit.heads import HeadFile
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree
from ctxlog.errors import BundleError, PointError, UnsignedError
from unit.deciding_plays import Play

KEY = SigningKey("example.org/audit", b"k" * 32)
PUBLIC = KEY.verify_key


def sign(backend: Any, folder: Path) -> LogTree:
    tree = LogTree(backend, folder / "tree.sqlite")
    signer = Signer(backend, tree, KEY, HeadFile(folder / "heads", backend.log_id))
    for partition in range(backend.partitions):
        signer.sign(partition)
    return tree


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """A bundle about a decision of a played log; its path."""
    play = Play(5).run()
    tree = sign(play.backend, tmp_path)
    path = tmp_path / "evidence.zip"
    make_bundle(play.backend, tree, (), About(play.made[-1].decision.id), path)
    tree.close()
    return path


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_bundle_of_any_decision_says_what_the_log_says(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    play, folder = Play(seed).run(), tmp_path_factory.mktemp("bundle")
    tree = sign(play.backend, folder)
    for made in play.made:
        path = folder / "evidence.zip"
        about = About(made.decision.id)
        make_bundle(play.backend, tree, (), about, path)
        report = verify_bundle(path, [PUBLIC])
        assert report.problems == ()
        assert report.audit is not None
        expected = audited(play.backend, about).to_dict()
        assert report.audit.to_dict() == expected
        assert [head.keys for head in report.heads] == [(PUBLIC.short,)] * play.backend.partitions
        verify_alone(path, str(PUBLIC))
    tree.close()


def test_the_same_is_the_same_file(bundled: Path, tmp_path: Path) -> None:
    play = Play(5).run()
    made = []
    tree = sign(play.backend, tmp_path / "again")
    for name in ("one", "other"):
        make_bundle(play.backend, tree, (), About(play.made[-1].decision.id), tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    tree.close()
    assert made[0] == made[1]


def rewritten(path: Path, change: Callable[[dict[str, bytes]], object], *, digests: bool = True) -> Path:
    """The bundle with changed files, and with digests that fit, as a forger would leave it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    contents = json.loads(files["bundle.json"])
    if digests:
        contents["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "bundle.json"}
        files["bundle.json"] = json.dumps(contents).encode()
    other = path.with_name("forged.zip")
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return other


def both_refuse(path: Path) -> None:
    """Neither program believes the bundle."""
    try:
        report = verify_bundle(path, [PUBLIC])
    except BundleError:
        pass
    else:
        assert report.problems
    with pytest.raises((WrongError, KeyError, ValueError, IndexError, zipfile.BadZipFile)):
        verify_alone(path, str(PUBLIC))


def records_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["records.jsonl"].splitlines()]


def put_records(files: dict[str, bytes], records: list[dict[str, Any]]) -> None:
    files["records.jsonl"] = b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize("member", ["partition", "offset", "recorded_at", "origin", "key", "value", "leaf", "path"])
def test_any_change_of_any_record_is_found_by_both_programs(bundled: Path, member: str) -> None:
    dice = random.Random(3)
    count = len(read_bundle(bundled).records)
    for place in dice.sample(range(count), 12):

        def change(files: dict[str, bytes], place: int = place) -> None:
            records = records_of(files)
            record = records[place]
            match record[member]:
                case int(number):
                    record[member] = number ^ 1 << dice.randrange(8) if member != "partition" else (number + 1) % 3
                case str(text):
                    data = bytearray(base64.b64decode(text))
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
                    record[member] = base64.b64encode(data).decode()
                case None:
                    record[member] = "00000000-0000-4000-8000-000000000000/0/1/2"
                case list(path):
                    record[member] = path[:-1] if dice.random() < 0.5 or not path else [*path[1:], path[0]]
            put_records(files, records)

        with zipfile.ZipFile(bundled) as archive:
            before = archive.read("records.jsonl")
        forged = rewritten(bundled, change)
        with zipfile.ZipFile(forged) as archive:
            if list(map(json.loads, archive.read("records.jsonl").splitlines())) == list(map(json.loads, before.splitlines())):
                continue  # A path of one step has no other order.
        both_refuse(forged)


def test_a_record_of_what_was_read_cannot_be_left_out(bundled: Path) -> None:
    bundle = read_bundle(bundled)
    reads = {read["stream_id"]: read["version"] for read in bundle.report["reads"]}
    for place, (record, _, _) in enumerate(bundle.records):
        stream = (record.key or b"").decode()
        if stream in reads and reads[stream] > 0:
            reads[stream] -= 1

            def change(files: dict[str, bytes], place: int = place) -> None:
                records = records_of(files)
                del records[place]
                put_records(files, records)

            both_refuse(rewritten(bundled, change))


def test_a_report_that_says_something_else_is_found(bundled: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        report = json.loads(files["report.json"])
        report["decision"]["outcome"] = '{"refund": 0}'
        files["report.json"] = json.dumps(report).encode()

    report = verify_bundle(rewritten(bundled, change), [PUBLIC])
    assert [problem.where for problem in report.problems] == ["report.json decision"]


def test_versions_are_computed_and_not_believed(bundled: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        records = records_of(files)
        last = next(record for record in reversed(records) if record["version"])
        last["version"] += 1
        put_records(files, records)

    (problem,) = verify_bundle(rewritten(bundled, change), [PUBLIC]).problems
    assert (problem.where[:7], problem.expected[:8]) == ("record ", "version ")


def test_files_are_held_to_their_digests(bundled: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["README.md"] += b"Trust me.\n"

    path = rewritten(bundled, change, digests=False)
    with pytest.raises(BundleError, match=r"README\.md with SHA-256"):
        verify_bundle(path, [PUBLIC])
    with pytest.raises(WrongError):
        verify_alone(path, str(PUBLIC))


def test_who_signed_is_asked_of_the_reader_and_not_of_the_bundle(bundled: Path) -> None:
    other = SigningKey("example.org/audit", b"o" * 32)
    report = verify_bundle(bundled, [other.verify_key])
    assert {problem.where for problem in report.problems} == {f"heads/{number}.txt" for number in range(3)}
    assert report.audit is None
    with pytest.raises(WrongError):
        verify_alone(bundled, str(other.verify_key))


@pytest.mark.parametrize("name", ["../escape.txt", "/etc/passwd", "heads/99.txt", "extra"])
def test_files_that_nobody_named_are_refused(bundled: Path, name: str) -> None:
    path = rewritten(bundled, lambda files: files.update({name: b"x"}), digests=False)
    with pytest.raises(BundleError, match="the files that bundle"):
        verify_bundle(path, [PUBLIC])


def test_what_is_no_bundle_is_refused(tmp_path: Path, bundled: Path) -> None:
    path = tmp_path / "x.zip"
    with pytest.raises(BundleError, match="a file that can be read"):
        verify_bundle(path, [PUBLIC])
    for content in (b"", b"PK", bundled.read_bytes()[:-30], b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(BundleError):
            verify_bundle(path, [PUBLIC])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # A bomb: its size is looked at before its content.
        archive.writestr("bundle.json", b"0")
        info = zipfile.ZipInfo("records.jsonl")
        archive.writestr(info, b"0")
        info.file_size = 5 * 1024**3
    with pytest.raises(BundleError):
        verify_bundle(path, [PUBLIC])


def test_bits_of_the_file_itself_are_found_or_without_meaning(bundled: Path) -> None:
    whole, dice = bundled.read_bytes(), random.Random(1)
    expected = read_bundle(bundled)
    for _ in range(300):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        bundled.write_bytes(data)
        try:
            assert read_bundle(bundled) == expected  # Times and flags of the archive, which nobody reads.
        except BundleError:
            continue


def test_a_decision_behind_the_newest_head_is_not_bundled(tmp_path: Path) -> None:
    play = Play(1).run()
    path = tmp_path / "evidence.zip"
    with pytest.raises(UnsignedError, match="expected a signed head"):
        make_bundle(play.backend, LogTree(play.backend, None), (), About(play.made[0].decision.id), path)
    tree = sign(play.backend, tmp_path)
    play.run(1)
    with pytest.raises(UnsignedError, match="behind the newest signed head"):
        make_bundle(play.backend, tree, (), About(play.made[-1].decision.id), path)
    with pytest.raises(PointError, match="no such decision"):
        make_bundle(play.backend, tree, (), About("nobody"), path)
    tree.close()
    assert not path.exists()


def test_an_event_without_a_decision_and_forks_are_bundled_with_their_ancestors(tmp_path: Path) -> None:
    play = Play(2)
    log = play.log
    log.context("refunds/parent").add_message("user", "Please refund.")
    child = log.context("refunds/parent").fork("refunds/child")
    call = child.add_tool_call("pay", {"order": "W-204"})
    child.add_tool_result(call.event_id, "paid")
    tree = sign(play.backend, tmp_path)
    path = tmp_path / "evidence.zip"
    make_bundle(play.backend, tree, (), About(None, "refunds/child", 2), path)
    tree.close()
    report = verify_bundle(path, [PUBLIC])
    assert report.problems == ()
    assert report.audit is not None
    assert report.audit.decision is None
    assert [read.released and [message.content for message in read.released.messages] for read in report.audit.reads] == [
        ["Please refund."]
    ]


def test_it_is_checked_where_nothing_of_ctxlog_is_installed(bundled: Path) -> None:
    script = Path(__file__).parents[1] / "bundle_verifier.py"
    checked = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['ctxlog'] = None; sys.argv = ['x', {str(bundled)!r}, {str(PUBLIC)!r}]; "
         f"exec(compile(open({str(script)!r}).read(), 'v', 'exec'), {{'__name__': '__main__'}})"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout) == (0, "verified\n"), checked.stderr


def test_a_bundle_of_an_embedded_log_is_made_while_it_is_written(tmp_path: Path) -> None:
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        ctx = log.context("refunds/1")
        ctx.add_message("user", "Please refund.")
        with log.decision("refund", agent="refunds") as decision:
            decision.read(ctx)
        tree = sign(log.log, tmp_path)
        ctx.add_message("user", "And quickly.")
        bundle = make_bundle(log.log, tree, (), About(decision.id), tmp_path / "e.zip")
        tree.close()
    assert b"And quickly." not in b"".join(one.record.value or b"" for one in bundle.records)
    assert verify_bundle(tmp_path / "e.zip", [PUBLIC]).problems == ()

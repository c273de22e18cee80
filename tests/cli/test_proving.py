"""`ctxlog replay`, `ctxlog diff`, `ctxlog verify`, `ctxlog copy`."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from cli.conftest import Program
from ctxlog.samples import TAU_BENCH_TASK_14


def test_replay_gives_state_and_manifest(refunds: Program) -> None:
    found = refunds("replay", "refunds/1", "-o", "json").json
    assert [(message["role"], message["content"]) for message in found["state"]["messages"]] == [
        ("user", "Please refund order W-204."),
        ("assistant", "Done."),
    ]
    manifest = found["manifest"]
    assert (manifest["version"], manifest["fold_version"], manifest["started_from"]) == (4, 1, 0)
    assert manifest["chain_head"] == found["state"]["chain_head"]
    assert manifest["position"].keys() == {"partition", "offset"}
    assert re.fullmatch("[0-9a-f]{64}", manifest["state_digest"])
    shown = refunds("replay", "refunds/1").out
    assert manifest["chain_head"] in shown
    assert manifest["state_digest"] in shown
    assert "W-204" in shown


def test_the_digest_is_that_of_the_state_as_it_is_printed(refunds: Program) -> None:
    """Anybody with an RFC 8785 library can check it."""
    import hashlib

    import rfc8785

    found = refunds("replay", "refunds/1", "-o", "json").json
    assert hashlib.sha256(rfc8785.dumps(found["state"])).hexdigest() == found["manifest"]["state_digest"]


def test_replay_takes_the_point_behind_the_at_sign_or_as_an_option(refunds: Program) -> None:
    by_sign = refunds("replay", "refunds/1@2", "-o", "json").out
    assert refunds("replay", "refunds/1", "--at", "version:2", "-o", "json").out == by_sign
    state = json.loads(by_sign)["state"]
    event = refunds("log", "refunds/1", "-o", "jsonl").lines[1]["meta"]["event_id"]
    assert refunds("replay", f"refunds/1@event:{event}", "-o", "json").json["state"] == state
    position = json.loads(by_sign)["manifest"]["position"]["offset"]
    assert refunds("replay", f"refunds/1@offset:{position}", "-o", "json").json["state"] == state
    refunds("replay", "refunds/1@2", "--at", "3", code=2)
    refunds("replay", "refunds/1", "--at", "nonsense", code=2)
    refunds("replay", "refunds/7", "--at", "3", code=1)


def test_replay_as_of_a_time_says_so_while_more_may_come(refunds: Program) -> None:
    done = refunds("replay", "refunds/1@time:2199-01-01T00:00:00Z", "-o", "json").json["manifest"]
    assert (done["provisional"], done["version"]) == (True, 4)
    assert "provisional" in refunds("replay", "refunds/1@time:2199-01-01T00:00:00Z").err
    assert "claims" in refunds("replay", "refunds/1@occurred:2199-01-01T00:00:00Z").err
    first = refunds("log", "refunds/1", "-o", "jsonl").lines[0]
    assert refunds("replay", "refunds/1@time:2001-01-01", "-o", "json").json["state"]["version"] == 0
    assert first["version"] == 1


def test_a_cut_is_printed_kept_and_repeated(refunds: Program) -> None:
    cut = refunds("replay", "refunds/*", "-o", "json")
    assert cut.json["streams"] == {"refunds/1": 4, "refunds/2": 1}
    (refunds.folder / "cut.json").write_text(cut.out)
    assert refunds("replay", "refunds/*@latest", "-o", "json").out == cut.out
    refunds("append", "refunds/1", "--message", "user", "later")
    refunds("append", "refunds/3", "--message", "user", "a stream that came later")
    assert refunds("replay", "refunds/*", "--at", "cut:cut.json", "-o", "json").out == cut.out
    assert refunds("replay", "refunds/1", "--at", "cut:cut.json", "-o", "json").json["state"]["version"] == 4
    assert "refunds/1" in refunds("replay", "*", "--at", "time:2199-01-01T00:00:00Z").out
    assert "names a place in one stream" in refunds("replay", "refunds/*", "--at", "event:x", code=2).err


def test_a_cut_of_another_log_or_of_another_past_is_refused(refunds: Program) -> None:
    cut = refunds("replay", "refunds/*", "-o", "json").json
    (refunds.folder / "cut.json").write_text(json.dumps({**cut, "chain_heads": {"refunds/1": "0" * 64}}))
    assert "not what it was when the cut was made" in refunds("replay", "refunds/*", "--at", "cut:cut.json", code=1).err
    (refunds.folder / "cut.json").write_text(json.dumps({**cut, "log_id": "another"}))
    assert "was made of log another" in refunds("replay", "refunds/*", "--at", "cut:cut.json", code=2).err
    assert "cannot be read" in refunds("replay", "refunds/*", "--at", "cut:missing", code=2).err


def test_offsets_of_several_streams_need_a_log_of_one_partition(program: Program) -> None:
    program("init", "--partitions", "4")
    program("append", "a/1", "--message", "user", "x")
    assert "names a place in one stream" in program("replay", "a/*", "--at", "offset:1", code=2).err


def test_diff_says_what_changed_in_terms_of_the_context(refunds: Program) -> None:
    found = refunds("diff", "refunds/1@1", "refunds/1", "-o", "json").json
    assert [(change["change"], change["key"]) for change in found["facts"]] == [("set", "order.total"), ("set", "refunded")]
    assert [(change["change"], change["after"]["content"]) for change in found["messages"]] == [("added", "Done.")]
    assert found["tool_calls"] == []
    shown = refunds("diff", "refunds/1@1", "refunds/1").out
    assert "+ order.total = 129.90" in shown
    assert "+ assistant" in shown
    assert "No difference." in refunds("diff", "refunds/1", "refunds/1@4").out


def test_diff_aligns_separate_runs_by_what_was_said(program: Program) -> None:
    program("import", str(TAU_BENCH_TASK_14), "--agent", "a")
    found = program("diff", "a/task-14-trial-0", "a/task-14-trial-1", "-o", "json").json
    assert found["aligned_by"] == "content"
    messages = program("show", "a/task-14-trial-0", "-o", "json").json["messages"]
    assert found["messages"]
    assert len([change for change in found["messages"] if change["change"] == "removed"]) < len(messages)
    assert "matched by what they say" in program("diff", "a/task-14-trial-0", "a/task-14-trial-1").err


def test_verify_says_consistent_and_no_more(refunds: Program) -> None:
    assert refunds("verify").out.startswith("consistent, unsigned ")
    found = refunds("verify", "-o", "json").json
    assert (found["verdict"], found["streams"], found["problems"]) == ("consistent, unsigned", 3, [])
    assert refunds("verify", "refunds/*", "-o", "json").json["streams"] == 2
    assert "no stream matches" in refunds("verify", "nothing*", code=1).err


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE records SET value = replace(value, CAST('129.90' AS BLOB), CAST('929.90' AS BLOB)) WHERE id = 4",
        "UPDATE records SET value = CAST(replace(value, CAST('129.90' AS BLOB), CAST('929.90' AS BLOB)) AS BLOB) WHERE id = 4",
        "UPDATE records SET value = 12990 WHERE id = 4",
        "UPDATE records SET recorded_at = 'noon' WHERE id = 4",
        "UPDATE records SET origin = 'elsewhere' WHERE id = 4",
        "DELETE FROM streams WHERE key = CAST('support/1' AS BLOB)",
        "UPDATE records SET recorded_at = recorded_at + 1000 WHERE id = 4",
        "UPDATE records SET stream = (SELECT max(id) FROM streams) WHERE id = 4",
        "DELETE FROM records WHERE id = 4",
        "UPDATE streams SET key = CAST('refunds/9' AS BLOB) WHERE key = CAST('refunds/1' AS BLOB)",
    ],
)
def test_verify_exits_with_3_and_names_the_place(refunds: Program, tampering: str) -> None:
    with sqlite3.connect(refunds.folder / ".ctxlog" / "log.sqlite") as connection:
        assert connection.execute(tampering).rowcount == 1
    connection.close()
    done = refunds("verify", code=3)
    assert done.out.startswith("broken")
    assert re.search(r"record 0@\d|a record's origin", done.out)
    assert "129.90" not in done.out
    found = refunds("verify", "-o", "json", code=3).json
    assert found["verdict"] == "broken"
    assert found["problems"][0].keys() == {"where", "expected", "found"}


def test_verify_exits_with_3_for_a_log_that_cannot_be_opened_or_read(refunds: Program) -> None:
    path = refunds.folder / ".ctxlog" / "log.sqlite"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4096] + b"\xff" * 4096 + whole[8192:], b"no database at all" * 100):
        path.write_bytes(damaged)
        assert refunds("verify", code=3).out.startswith("broken")
        assert refunds("verify", "-o", "json", code=3).json["verdict"] == "broken"
        assert refunds("doctor", code=1).out


def test_a_manifest_is_checked_against_the_log(refunds: Program) -> None:
    """Whoever rewrites a log as a whole, links and all, cannot rewrite the manifest that somebody else keeps."""
    kept = refunds("replay", "refunds/1", "-o", "json")
    path = refunds.folder / "kept.json"
    path.write_text(kept.out)
    refunds("append", "refunds/1", "--message", "user", "later")
    assert "the manifest is what the log says" in refunds("verify", "--manifest", "kept.json").out
    changed = kept.json
    changed["state"]["messages"][0]["content"] = "Please refund order W-999."
    path.write_text(json.dumps(changed))
    assert "refunds/1@4 state" in refunds("verify", "--manifest", "kept.json", code=3).out
    changed["manifest"]["chain_head"] = "0" * 64
    path.write_text(json.dumps(changed["manifest"]))
    assert "refunds/1@4 chain_head" in refunds("verify", "--manifest", "kept.json", code=3).out
    for other in ("[]", "{}", "nothing"):
        path.write_text(other)
        refunds("verify", "--manifest", "kept.json", code=2)
    refunds("verify", "--manifest", "missing.json", code=2)
    refunds("verify", "refunds/*", "--manifest", "kept.json", code=2)


def test_a_copy_answers_the_same_and_is_made_once(refunds: Program) -> None:
    refunds("append", "refunds/1", "--fact", "x", "1", "--expected-version", "0", code=1)
    done = refunds("copy", "embedded:backup", "--partitions", "3", "-o", "json").json
    assert (done["outcome"], done["undecodable"], done["misplaced"]) == ("copied", 0, 0)
    assert refunds("copy", "embedded:backup", "-o", "json").json["outcome"] == "finished before"
    for point in ("", "@2"):
        here = refunds("replay", f"refunds/1{point}", "-o", "json").json
        there = refunds("replay", f"refunds/1{point}", "-o", "json", "--log", "embedded:backup").json
        assert here["state"] == there["state"]
        for name in ("chain_head", "state_digest", "version", "recorded_at"):
            assert here["manifest"][name] == there["manifest"][name]
    assert refunds("verify", "--log", "embedded:backup").out.startswith("consistent, unsigned")


def test_a_copy_goes_into_nothing_but_an_empty_log(refunds: Program) -> None:
    refunds("append", "a/1", "--message", "user", "x", "--log", "embedded:used")
    assert "is not empty" in refunds("copy", "embedded:used", code=1).err
    assert "the same log" in refunds("copy", "embedded:.ctxlog", code=1).err
    refunds("init", "--log", "embedded:four", "--partitions", "4")
    assert "has 4 partitions, not 2" in refunds("copy", "embedded:four", "--partitions", "2", code=2).err
    assert not (refunds.folder / "new").exists()


def test_init_creates_a_log_once(program: Program) -> None:
    first = program("init", "--partitions", "3", "-o", "json").json
    assert (first["created"], first["partitions"]) == (True, 3)
    again = program("init", "-o", "json").json
    assert again == {**first, "created": False}
    assert "has 3 partitions, not 2" in program("init", "--partitions", "2", code=2).err
    assert "exists" in program("init").out


def test_doctor_looks_and_changes_nothing(program: Program, tmp_path: Path) -> None:
    found = {check["check"]: check for check in program("doctor", "-o", "json").json["checks"]}
    assert found["log"]["status"] == "note"
    assert list(tmp_path.iterdir()) == []
    program("append", "a/1", "--message", "user", "x")
    found = {check["check"]: check for check in program("doctor", "-o", "json").json["checks"]}
    assert {check["status"] for check in found.values()} <= {"ok", "warning"}
    assert "1 stream" in found["log"]["found"]
    assert "the default" in program("doctor").out
    (tmp_path / "file").write_text("x")
    assert "failed" in program("doctor", "--log", "embedded:file", code=1).out


def publish_views(program: Program, folder: str = ".ctxlog/views") -> Path:
    from ctxlog.log.embedded import EmbeddedLog
    from ctxlog.projection.projector import Projector
    from ctxlog.projection.publish import publish

    log = EmbeddedLog(program.folder / ".ctxlog", create=False)
    projector = Projector(log, program.folder / folder / ".current.duckdb")
    projector.run_once()
    publish(projector.store, program.folder / folder / "current.duckdb")
    projector.close()
    log.close()
    return program.folder / folder / "current.duckdb"


def test_verify_compares_the_published_views_with_the_log(refunds: Program) -> None:
    assert "no views are published there" in refunds("verify", "--views", code=1).err
    publish_views(refunds)
    done = refunds("verify", "--views")
    assert re.match(r"views agree with the log  \(current\.duckdb up to 0@\d+: 3 streams, \d+ records\)$", done.out.strip())
    found = refunds("verify", "--views", "-o", "json").json
    assert (found["verdict"], len(found["views"]), found["views"][0]["streams"]) == ("views agree with the log", 1, 3)
    assert refunds("verify", "refunds/1", "--views", "-o", "json").json["views"][0]["streams"] == 1
    assert refunds("verify", "--views", "--sample", "1", "-o", "json").json["views"][0]["streams"] == 1
    refunds("append", "refunds/1", "--message", "user", "more")
    behind = refunds("verify", "--views")
    assert "what lies behind was not compared" in behind.out + behind.err


def test_verify_exits_with_3_where_views_differ_and_names_stream_and_version(refunds: Program) -> None:
    import duckdb

    path = publish_views(refunds, "elsewhere")
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE events SET content = 'never said' WHERE stream_id = 'refunds/1' AND version = 1")
    done = refunds("verify", "--views-folder", "elsewhere", code=3)
    assert done.out.startswith("views differ from the log")
    assert re.search(r"refunds/1@1, record 0@\d+ content: expected what the log says, found something else", done.out)
    assert "never said" not in done.out + done.err
    assert refunds("verify", "--views-folder", "elsewhere", "-o", "json", code=3).json["verdict"] == "views differ from the log"


def test_verify_exits_with_1_where_views_cover_nothing(refunds: Program) -> None:
    """As where there are none: a timer must not take it for views that are right."""
    import duckdb

    path = publish_views(refunds)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "DELETE FROM projection.progress; DELETE FROM events; DELETE FROM streams; DELETE FROM projection.controls"
        )
    assert refunds("verify", "--views", code=1).out.startswith("nothing was compared  (current.duckdb up to nothing")
    assert refunds("verify", "--views", "-o", "json", code=1).json["verdict"] == "nothing was compared"


def test_verify_takes_its_options_together_as_they_make_sense(refunds: Program) -> None:
    refunds("verify", "--views", "--manifest", "seen.json", code=2)
    refunds("verify", "--sample", "3", code=2)
    publish_views(refunds)
    assert "--views-folder" in refunds("verify", "--views", ".ctxlog/views", code=1).err

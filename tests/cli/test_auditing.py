"""`decisions`, `audit`, `blame` and `diff` across forks, as auditors run them."""

from __future__ import annotations

import json
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.conftest import Program
from ctxlog import ContextLog
from ctxlog.cli import text
from ctxlog.cli.text import HOSTILE
from ctxlog.errors import StorageError
from ctxlog.model.events import DecisionRecorded

NASTY = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe\x1b[2J\x07&amp;\"'"


def decide(folder: Path, said: str = "Please refund.", *, stale: bool = False) -> str:
    """A decision on a log in the folder; its id."""
    with ContextLog.open(f"embedded:{folder / '.ctxlog'}") as log, ContextLog.open(f"embedded:{folder / '.ctxlog'}") as others:
        ctx = log.context("refunds/1")
        ctx.add_message("user", said)
        ctx.set_fact("order.total", said)
        with log.decision("refund", agent="refunds", model="m", parameters={"t": 0}, correlation_id="case-7") as decision:
            decision.read(ctx, max_messages=5)
            if stale:
                others.context("refunds/1").set_fact("order.total", 2)
            decision.outcome, decision.rationale = {"said": said}, said
            call = ctx.add_tool_call("pay", {"note": said})
            ctx.add_tool_result(call.event_id, said)
        return decision.id


def test_decisions_are_listed_for_people_and_programs(program: Program) -> None:
    one, two = decide(program.folder), decide(program.folder, stale=True)
    head, *rows = program("decisions").out.splitlines()
    assert head.split() == ["DECISION", "RECORDED", "AGENT", "NOTE", "DECIDED", "READ"]
    assert [row.split()[0] for row in rows] == [one, two]
    assert "refund by m" in rows[0]
    assert [row.split()[3] for row in rows] == ["-", "stale"]
    assert [row.split()[-1] for row in rows] == ["refunds/1@2", "refunds/1@6"]
    found = program("decisions", "-o", "json").json["decisions"]
    assert [(row["decision_id"], row["stale"]) for row in found] == [(one, False), (two, True)]
    assert found[1]["reads"] == [{"stream_id": "refunds/1", "version": 6, "newer_events": 1}]
    assert [row["decision_id"] for row in program("decisions", "--stale", "-o", "jsonl").lines] == [two]
    both = ("--agent", "refunds", "--stream", "refunds/1", "--correlation", "case-7", "--since", "2020-01-01")
    assert len(program("decisions", *both, "-o", "jsonl").lines) == 2
    for none in (("--agent", "a"), ("--correlation", "b"), ("--since", "2199-01-01T00:00:00Z")):
        done = program("decisions", *none)
        assert (done.out, "no decision is recorded that fits" in done.err) == ("", True)
    assert "ISO 8601" in program("decisions", "--since", "yesterday", code=2).err
    assert "Did you mean 'refunds/1'" in program("decisions", "--stream", "refund/1", code=1).err


def test_an_audit_says_what_was_known_what_had_changed_and_what_came_of_it(program: Program) -> None:
    decision = decide(program.folder, stale=True)
    shown = program("audit", decision).out
    for part in (
        "verified: 1 read, ",
        f"Decision {decision}  stale",
        "Read 1: refunds/1@2",
        "1 event before the decision",
        'order.total = "Please refund."  (@2 ',
        "user  Please refund.  (@1 ",
        'pay({"note": "Please refund."})  returned',
        "What this does not show",
    ):
        assert part in shown, part
    found = program("audit", f"decision:{decision}", "-o", "json").json
    assert (found["verified"], found["stale"], found["decision"]["decision_id"]) == (True, True, decision)
    assert program("audit", "refunds/1@4", "-o", "json").json["asked_for"]["version"] == 4
    assert found["reads"] == program("audit", "refunds/1@4", "-o", "json").json["reads"]


def test_spans_of_time_are_said_as_people_say_them() -> None:
    spans = (0, 812, 9_999, 45_000, 2_683_848, 36_000_000, 10 * 86_400_000, -5)
    assert [text.duration(span) for span in spans] == [
        "0 ms", "812 ms", "9,999 ms", "45 s", "45 min", "10 h", "10 days", "-5 ms",
    ]  # fmt: skip


def test_an_event_without_a_decision_says_that_reads_are_not_recorded(refunds: Program) -> None:
    done = refunds("audit", "refunds/1@4")
    assert done.out.startswith("verified: reads not recorded")
    assert "Reads not recorded; everything below was available." in done.out
    assert "Available: refunds/1@3" in done.out
    event = refunds("log", "refunds/1", "-o", "json").json["entries"][3]["meta"]["event_id"]
    assert refunds("audit", f"refunds/1@event:{event}").out == done.out


def test_what_cannot_be_audited_is_said_and_exits_with_2(refunds: Program) -> None:
    for target, said in (
        ("nothing", "no such decision is recorded"),
        ("refunds/1", "named STREAM@VERSION"),
        ("refunds/1@9", "no event made version 9"),
        ("refunds/1@latest", "expected the version that an event made"),
        ("refunds/1@event:none", "no accepted event with id"),
        ("refunds/1@wrong", "expected one of"),
    ):
        done = refunds("audit", target, code=2)
        assert said in done.err
        assert done.out == ""


def test_what_does_not_verify_exits_with_3_and_names_the_place(program: Program) -> None:
    decide(program.folder)
    with ContextLog.open(f"embedded:{program.folder / '.ctxlog'}") as log:
        log.context("decisions/a").append(DecisionRecorded(decision_id="d", kind="k", reads=("none",)))
    done = program("audit", "d", code=3)
    assert done.out.startswith(
        "NOT VERIFIED: decision d at decisions/a@1: names a read that is in its stream: expected read none"
    )
    assert "1 read missing" in program("decisions").out
    assert program("audit", "d", "-o", "json", code=3).json["verified"] is False
    program("audit", "d", "--html", "d.html", code=3)
    assert "NOT VERIFIED" in (program.folder / "d.html").read_text("utf-8")


def test_a_file_that_was_changed_is_not_verified(program: Program) -> None:
    decision = decide(program.folder, "129.90 agreed")
    path = program.folder / ".ctxlog" / "log.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE records SET value = CAST(replace(value, ?, ?) AS BLOB)", (b"129.90", b"729.90"))
    assert program("audit", decision, code=3).out.startswith("NOT VERIFIED: ")
    path.write_bytes(b"no log at all, but long enough to be looked at" * 100)
    done = program("audit", decision, "-o", "json", code=3)
    assert done.json["verified"] is False


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_is_whole_alone_and_lets_nothing_out_of_its_text(program: Program) -> None:
    decision = decide(program.folder, NASTY)
    done = program("audit", decision, "--html", "report.html")
    assert done.out.startswith("verified: ")
    assert "one file, without anything from elsewhere" in done.err
    found = (program.folder / "report.html").read_text("utf-8")
    page = Page()
    page.feed(found)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert tags <= set("html head meta title style body h1 h2 h3 p table tr th td code pre span div ul li br".split())  # noqa: SIM905
    names = {name for _, attributes in page.tags for name in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "class"}
    assert ("meta", {"charset": "utf-8"}) in page.tags
    shown = "".join(page.text)
    assert shown.count("</pre><script>alert(1)</script>") >= 6
    assert "\\u202egnp.exe␛[2J␇&amp;\"'" in shown
    assert not HOSTILE.search(found.replace("\n", ""))
    assert "http" not in found.replace("http-equiv", "")
    assert sorted(path.name for path in program.folder.iterdir()) == [".ctxlog", "report.html"]


def test_a_page_that_cannot_be_written_leaves_nothing_behind(program: Program) -> None:
    decision = decide(program.folder)
    assert "cannot be written" in program("audit", decision, "--html", "no/such/folder.html", code=1).err
    assert [path.name for path in program.folder.iterdir()] == [".ctxlog"]


def test_a_page_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxlog.audit.auditing import audit_decision
    from ctxlog.cli.audit_page import write_page

    decision = decide(tmp_path)
    with ContextLog.open(f"embedded:{tmp_path / '.ctxlog'}") as log:
        report = audit_decision(log.log, decision)

    def no_room(_file: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("the last one")
    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(StorageError, match="No space left on device; no report was left there"):
        write_page(report, str(tmp_path / "report.html"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ctxlog", "report.html"]
    assert (tmp_path / "report.html").read_text() == "the last one"


def test_text_of_a_log_cannot_drive_the_terminal(program: Program) -> None:
    decision = decide(program.folder, NASTY)
    for arguments in (("audit", decision), ("decisions",), ("blame", "refunds/1", "order.total")):
        for output in ("table", "json"):
            shown = program(*arguments, "-o", output).out.replace("\n", "")
            assert not HOSTILE.search(shown)


def test_blame_says_who_set_a_fact_and_what_led_to_it(program: Program) -> None:
    decision = decide(program.folder)
    with ContextLog.open(f"embedded:{program.folder / '.ctxlog'}") as log:
        ctx = log.context("refunds/1")
        ctx.set_fact("order.total", 1, actor="tool:shop", causation_id=decision, expires_at=5)
        ctx.fork("refunds/2").set_fact("order.total", 2)
    shown = program("blame", "refunds/1", "order.total").out
    for part in (
        "fact order.total  refunds/1@5",
        "now        set 1  expired 1970-01-01T00:00:00.000005Z",
        "by         tool:shop, as it says",
        f"caused by  decision {decision}, refund, decisions/refunds@2",
    ):
        assert part in shown, part
    assert shown.splitlines()[-1].endswith("set         tool:shop  1  expired 1970-01-01T00:00:00.000005Z  decision refund")
    rows = program("blame", "refunds/2", "fact:order.total", "-n", "2").out.splitlines()
    assert "… 1 earlier change" in rows[-3]
    assert rows[-2].startswith("refunds/1@5")
    found = program("blame", "refunds/2", "order.total", "-o", "json").json
    assert [change["event"]["stream_id"] for change in found["history"]] == ["refunds/1", "refunds/1", "refunds/2"]
    assert "no fact, message or call" in program("blame", "refunds/1", "none", code=2).err
    assert "Did you mean" in program("blame", "refunds/11", "none", code=1).err


def test_diff_says_where_forks_part(program: Program) -> None:
    decide(program.folder)
    with ContextLog.open(f"embedded:{program.folder / '.ctxlog'}") as log:
        log.context("refunds/1").fork("refunds/2", at=2).set_fact("order.total", 2)
        log.context("refunds/1").fork("refunds/3", at=3)
    shown = program("diff", "refunds/1", "refunds/2").out.splitlines()
    assert shown[2] == "refunds/2 is forked from refunds/1@2"
    shown = program("diff", "refunds/3", "refunds/2").out.splitlines()
    assert shown[2:4] == ["refunds/3 is forked from refunds/1@3", "refunds/2 is forked from refunds/1@2"]
    shown = program("diff", "refunds/1@1", "refunds/2").out.splitlines()
    assert shown[2:4] == ["refunds/2 is forked from refunds/1@2", "one history up to refunds/1@1"]
    found = program("diff", "refunds/3", "refunds/2", "-o", "json").json
    assert (found["common"], found["aligned_by"]) == ({"stream_id": "refunds/1", "version": 2}, "id")
    assert program("diff", "refunds/1@1", "refunds/1", "-o", "json").json["common"] is None
    assert json.loads(program("diff", "refunds/1", "decisions/refunds", "-o", "jsonl").out)["common"] is None

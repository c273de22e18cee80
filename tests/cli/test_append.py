"""`ctxlog append`."""

from __future__ import annotations

import json

from cli.conftest import Program


def test_one_event_is_acknowledged_and_several_are_committed(program: Program) -> None:
    one = program("append", "a/1", "--message", "user", "Hello", "-o", "json").json
    assert (one["outcome"], one["version"], len(one["event_ids"])) == ("acknowledged", None, 1)
    two = program("append", "a/1", "--message", "user", "x", "--fact", "k", '{"n": 9007199254740993}', "-o", "json").json
    assert (two["outcome"], two["version"], len(two["event_ids"])) == ("committed", 3, 2)
    state = program("show", "a/1", "-o", "json").json
    assert [message["content"] for message in state["messages"]] == ["Hello", "x"]
    assert state["facts"]["k"]["value"] == '{"n": 9007199254740993}'
    assert [message["id"] for message in state["messages"]] == [one["event_ids"][0], two["event_ids"][0]]


def test_events_come_as_lines_or_as_an_array_from_a_file_or_stdin(program: Program) -> None:
    events = [
        {"type": "MessageAppended", "role": "user", "content": "one\nline é"},
        {"type": "ctxlog.FactSet", "key": "limit", "value": "250"},
        {"type": "StreamClosed", "reason": "done"},
    ]
    program("append", "a/lines", "--events", "-", typed="\n".join(map(json.dumps, events)) + "\n\n")
    program("append", "a/array", "--events", "-", typed=json.dumps(events, indent=1))
    (program.folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    program("append", "a/file", "--events", "events.jsonl")
    states = [program("show", f"a/{name}", "-o", "json").json for name in ("lines", "array", "file")]
    for state in states:
        assert state["messages"][0]["content"] == "one\nline é"
        assert state["facts"]["limit"]["value"] == "250"
        assert state["closed"] is True
        assert state["version"] == 3


def test_one_bad_event_among_good_ones_is_named_and_nothing_is_appended(program: Program) -> None:
    good = json.dumps({"type": "FactSet", "key": "limit", "value": "250"})
    for bad, said in (
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"type": "FactSett"}', 'line 2: expected "type" to be one of'),
        ('{"type": "FactSet", "key": "x"}', "line 2: FactSet: value: Field required"),
        ('{"type": "FactSet", "key": "x", "value": "1", "extra": 1}', "line 2: FactSet: extra"),
        ('{"type": "FactSet", "key": "x", "value": NaN}', "line 2: not JSON"),
    ):
        done = program("append", "a/1", "--events", "-", typed=f"{good}\n{bad}\n", code=2)
        assert said in done.err
        assert "nothing was appended" in done.err
    assert "not UTF-8" in program("append", "a/1", "--events", "-", typed=b"\xff", code=2).err
    assert "cannot be read" in program("append", "a/1", "--events", "missing", code=2).err
    assert list(program.folder.iterdir()) == []


def test_a_precondition_that_does_not_hold_is_a_conflict_and_changes_nothing(refunds: Program) -> None:
    done = refunds("append", "refunds/1", "--fact", "x", "1", "--expected-version", "3", code=1)
    assert "expected version 3, log is at 4" in done.err
    assert "nothing was changed" in done.err
    head = refunds("replay", "refunds/1", "-o", "json").json["manifest"]["chain_head"]
    assert refunds("append", "refunds/1", "--fact", "x", "1", "--expected-head", head, "-o", "json").json["version"] == 5
    refunds("append", "refunds/1", "--fact", "x", "2", "--expected-head", head, code=1)
    refunds("append", "refunds/1", "--fact", "x", "2", "--expected-head", "short", code=2)
    refunds("append", "refunds/1", "--message", "user", "x", "--expected-version", "0", code=1)
    assert refunds("show", "refunds/1", "-o", "json").json["facts"]["x"]["value"] == "1"


def test_the_actor_is_who_is_named_or_the_agent(refunds: Program) -> None:
    actors = [entry["meta"]["actor"] for entry in refunds("log", "refunds/1", "-o", "jsonl").lines]
    assert actors == ["agent:refunds", "tool:shop", "agent:refunds", "agent:refunds"]
    refunds("append", "refunds/1", "--fact", "x", "1", "--actor", "robot", code=2)


def test_a_message_too_large_for_a_record_is_refused(program: Program) -> None:
    event = json.dumps({"type": "MessageAppended", "role": "user", "content": "x" * 1_100_000})
    done = program("append", "a/1", "--events", "-", typed=event, code=2)
    assert "the limit is 1,048,576" in done.err or "1,048,576" in done.err
    assert "xxx" not in done.err

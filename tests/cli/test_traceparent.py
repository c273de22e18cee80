"""`TRACEPARENT`, by which tools that run other tools say which trace a command belongs to."""

from __future__ import annotations

from cli.conftest import Program


def test_a_traceparent_that_is_none_is_said_and_stops_no_append(program: Program) -> None:
    for said in ("nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"):
        done = program("append", "a/1", "--message", "user", "Hello", env={"TRACEPARENT": said})
        assert done.err == "Note: TRACEPARENT is no W3C traceparent; the records get none.\n"
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for said in ("", trace):
        assert program("append", "a/1", "--message", "user", "Hello", env={"TRACEPARENT": said}).err == ""
    assert program("show", "a/1", "-o", "json").json["version"] == 4

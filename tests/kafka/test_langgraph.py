"""LangGraph's checkpointer on a broker: a graph that was killed goes on from what is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.log.kafka import KafkaLog

TESTS = Path(__file__).parents[1]

KILLED = """
    import os, signal, sys
    from langgraph_graphs import agent, asked, thread
    from ctxlog import ContextLog
    from ctxlog.adapters.langgraph import CtxlogSaver
    def tool(state):
        os.kill(os.getpid(), signal.SIGKILL)
    with ContextLog.open(sys.argv[1]) as log:
        agent(CtxlogSaver(log, agent="bot"), tool=tool).invoke(asked("Oslo"), thread("t"), durability="sync")
"""


def test_a_graph_that_was_killed_goes_on_where_it_was(kafka: Any, tmp_path: Path) -> None:
    pytest.importorskip("langgraph")
    from ctxlog.adapters.langgraph import CtxlogSaver
    from langgraph_graphs import agent, asked, thread

    url = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    KafkaLog.create(url, 2)[0].close()
    command = [sys.executable, "-c", textwrap.dedent(KILLED), url]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -signal.SIGKILL
    with ContextLog.open(url) as log:
        graph = agent(CtxlogSaver(log, agent="bot"))
        assert graph.get_state(thread("t")).next == ("tool",)
        done = graph.invoke(None, thread("t"))
        assert [message.content for message in done["messages"]] == ["Oslo", "", "sunny in Oslo", "It is sunny in Oslo."]
        graph.invoke(asked("Rome"), thread("t"))
        shown = [(message.role, message.content) for message in log.context("bot/t").state.messages]
        assert shown[:4] == [
            ("user", "Oslo"),
            ("assistant", ""),
            ("tool", "sunny in Oslo"),
            ("assistant", "It is sunny in Oslo."),
        ]
        assert len(shown) == 8
        assert verify(log).problems == []

"""A thread of LangGraph kept by CtxlogSaver, and by LangGraph's own savers: time a step, bytes, state at a step, resuming.

Each saver keeps the same thread: recorded transcripts (mini-swe-agent, one after the other, messages and tool calls), one message
a step, with `durability="sync"`: a step is over when its checkpoint is kept. Two graphs: `messages` with LangGraph's ordinary
channel (`add_messages`), and `delta` with its DeltaChannel, which checkpoints only what was written. What the graph itself
costs is measured by the same run without a checkpointer, and subtracted.

PostgreSQL is started for it (Debian's package `postgresql`), with its defaults; SqliteSaver with its defaults too, which are WAL
and `synchronous=FULL`. Needs `pip install langgraph-checkpoint-sqlite langgraph-checkpoint-postgres 'psycopg[binary]'`; a saver
that is not installed is left out, and said so.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import importlib.util
import json
import os
import pwd
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from harness import Report, arguments, duration, scratch
from langchain_core.messages import AnyMessage, convert_to_messages
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph, add_messages
from rich.console import Console
from rich.table import Table

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mini-swe-agent"
CONFIG: Any = {"configurable": {"thread_id": "case-1"}, "recursion_limit": 100_000}


class Full(TypedDict):
    """The state with LangGraph's ordinary channel: each checkpoint holds all messages."""

    messages: Annotated[list[AnyMessage], add_messages]


def appended(messages: list[AnyMessage], writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    """What the delta channel holds after some writes."""
    return [*messages, *(message for write in writes for message in write)]


class Delta(TypedDict):
    """The state with LangGraph's DeltaChannel: of 100 checkpoints, one holds all messages."""

    messages: Annotated[list[AnyMessage], DeltaChannel(appended)]


GRAPHS: dict[str, type] = {"messages": Full, "delta": Delta}


def transcript(count: int) -> list[AnyMessage]:
    """Recorded messages, as LangChain holds them, each with an id."""
    found: list[AnyMessage] = []
    for path in sorted(DATA.glob("*/*.gz")):
        run = json.loads(gzip.decompress(path.read_bytes()))["messages"]
        said = [item for item in run if item["role"] in ("system", "user", "assistant", "tool")]
        found += convert_to_messages([{**item, "content": item["content"] or ""} for item in said])
        if len(found) >= count:
            break
    for number, message in enumerate(found):
        message.id = f"m{number}"
    return found[:count]


class Run:
    """A thread of a graph that says one recorded message a step, up to a number of messages."""

    def __init__(self, graph: str, messages: list[AnyMessage], saver: Any) -> None:
        self._messages, self._until = messages, 0
        built = StateGraph(GRAPHS[graph])
        built.add_node("say", lambda state: {"messages": [messages[len(state["messages"])].model_copy(deep=True)]})
        built.add_edge(START, "say")
        built.add_conditional_edges("say", lambda state: "say" if len(state["messages"]) < self._until else END)
        self.graph = built.compile(checkpointer=saver)

    def to(self, count: int, said: int) -> float:
        """Go on from `said` messages to `count`; seconds."""
        self._until = count
        # The input is the first message of the stretch; without a checkpointer nothing else is known of what was said.
        given = self._messages[: said + 1] if self.graph.checkpointer is None else self._messages[said : said + 1]
        durability: Any = {} if self.graph.checkpointer is None else {"durability": "sync"}
        started = time.perf_counter()
        self.graph.invoke({"messages": [message.model_copy(deep=True) for message in given]}, CONFIG, **durability)
        return time.perf_counter() - started


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


class Kept:
    """A saver that is measured: how it is opened anew, as another process would, and what it takes on disk."""

    def __init__(self, name: str, opened: Callable[[], contextlib.AbstractContextManager[Any]], size: Callable[[], int]) -> None:
        self.name, self.opened, self.size = name, opened, size


@contextlib.contextmanager
def ctxlog_saver(folder: Path) -> Iterator[Any]:
    """Ours, on an embedded log."""
    with ContextLog.open(f"embedded:{folder}") as log:
        yield CtxlogSaver(log, agent="bench")


def sqlite_kept(folder: Path) -> Kept:
    """LangGraph's, on SQLite."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    folder.mkdir()
    return Kept("SqliteSaver", lambda: SqliteSaver.from_conn_string(str(folder / "db.sqlite")), lambda: folder_bytes(folder))


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own; its connection string, without the database's name."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    folder.mkdir()
    folder.parent.chmod(0o755)  # PostgreSQL does not run as root: another user comes through here.
    os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if os.getuid() == 0 else {}
    subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "bench"],
        check=True,
        stdout=subprocess.DEVNULL,
        **as_user,
    )
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-p", str(port)]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", *options], stderr=subprocess.DEVNULL, start_new_session=True, **as_user
    )
    try:
        for _ in range(100):
            if subprocess.run([binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield f"postgresql://bench@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def postgres_kept(server: str, database: str) -> Kept:
    """LangGraph's, on PostgreSQL, in a database of its own."""
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
    with PostgresSaver.from_conn_string(f"{server}/{database}") as saver:
        saver.setup()

    def size() -> int:
        with psycopg.connect(f"{server}/{database}", autocommit=True) as connection:
            tables = "SELECT sum(pg_total_relation_size(relid)) FROM pg_statio_user_tables"
            return int(connection.execute(tables).fetchone()[0])

    return Kept("PostgresSaver", lambda: PostgresSaver.from_conn_string(f"{server}/{database}"), size)


def restored(graph: str, saver: Any, messages: list[AnyMessage], config: Any, count: int) -> None:
    """Restore a state, and see that it is the right one."""
    found = Run(graph, messages, saver).graph.get_state(config).values["messages"]
    if len(found) != count or found[-1] != messages[count - 1] or found[0] != messages[0]:
        raise SystemExit(f"{type(saver).__name__} restored {len(found)} messages, expected {count}")


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resumed(graph: str, kept: Kept, messages: list[AnyMessage], count: int) -> float:
    """Seconds to the newest state through a saver that is opened anew, as after a crash."""
    gc.collect()
    started = time.perf_counter()
    with kept.opened() as saver:
        restored(graph, saver, messages, CONFIG, count)
        return time.perf_counter() - started


def at_steps(graph: str, kept: Kept, messages: list[AnyMessage], steps: dict[int, Any]) -> list[float]:
    """Seconds of each of 20 states somewhere in the thread, through one saver that has answered once."""
    chosen = random.Random(7).sample(sorted(steps), min(20, len(steps)))
    with kept.opened() as saver:
        restored(graph, saver, messages, steps[chosen[0]], chosen[0])
        return [seconds_of(lambda step=step: restored(graph, saver, messages, steps[step], step)) for step in chosen]


def measure(
    graph: str, kept: Kept, messages: list[AnyMessage], stages: list[int], alone: dict[int, float]
) -> Iterator[dict[str, Any]]:
    """A thread kept by one saver: a row a stage."""
    said, steps = 0, {}  # Steps: the checkpoint after so many messages.
    for count in stages:
        gc.collect()
        with kept.opened() as saver:
            put = saver.put

            def noting(config: Any, checkpoint: Any, metadata: Any, versions: Any, put: Any = put) -> Any:
                made = put(config, checkpoint, metadata, versions)
                if metadata["source"] == "loop":  # Each brings one message; those of inputs bring none yet.
                    steps[len(steps) + 1] = made
                return made

            saver.put = noting
            seconds = Run(graph, messages, saver).to(count, said)
        yield {
            "graph": graph,
            "saver": kept.name,
            "messages": count,
            "step_seconds": seconds / (count - said),
            "net_seconds": (seconds - alone[count]) / (count - said),
            "bytes": kept.size(),
            "resume_seconds": statistics.median(resumed(graph, kept, messages, count) for _ in range(3)),
            "state_seconds": statistics.median(at_steps(graph, kept, messages, steps)),
        }
        said = count


def savers(folder: Path, server: str | None) -> Iterator[Callable[[str], Kept]]:
    """What is measured: each is told which graph it is for."""

    def ours(graph: str) -> Kept:
        place = folder / f"ctxlog-{graph}"
        return Kept("CtxlogSaver", lambda: ctxlog_saver(place), lambda: folder_bytes(place))

    yield ours
    if importlib.util.find_spec("langgraph.checkpoint.sqlite"):
        yield lambda graph: sqlite_kept(folder / f"sqlite-{graph}")
    if server is not None:
        yield lambda graph: postgres_kept(server, graph)


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__, lambda parser: parser.add_argument("--only", choices=GRAPHS, help="one of the two graphs"))
    if not DATA.exists():
        raise SystemExit(f"the recorded transcripts are not there: {DATA}; nothing was measured")
    stages = [20, 60] if options.quick else [100, 1000, 3000]
    messages = transcript(stages[-1])
    report = Report("langgraph", quick=options.quick, unit="step")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        server = None
        if not list(Path("/usr/lib/postgresql").glob("*/bin")):
            report.note("PostgresSaver was left out: there is no PostgreSQL (Debian's package `postgresql`).")
        elif not importlib.util.find_spec("psycopg") or not importlib.util.find_spec("langgraph.checkpoint.postgres"):
            report.note("PostgresSaver was left out: pip install langgraph-checkpoint-postgres 'psycopg[binary]'.")
        else:
            server = stack.enter_context(postgres(folder / "postgres"))
        if not importlib.util.find_spec("langgraph.checkpoint.sqlite"):
            report.note("SqliteSaver was left out: pip install langgraph-checkpoint-sqlite.")
        for graph in [options.only] if options.only else GRAPHS:
            alone, said = {}, 0
            for count in stages:
                alone[count], said = Run(graph, messages, None).to(count, said), count
            for saver in savers(folder, server):
                for row in measure(graph, saver(graph), messages, stages, alone):
                    report.rows.append(row)
                    print(", ".join(f"{name} {value}" for name, value in shown(row).items()), file=sys.stderr)
    printed(report)
    report.write()


def shown(row: dict[str, Any]) -> dict[str, str]:
    """A row for people."""
    return {
        "graph": row["graph"],
        "messages": f"{row['messages']:,}",
        "saver": row["saver"],
        "time / step": duration(row["step_seconds"]),
        "less the graph": duration(row["net_seconds"]),
        "on disk": f"{row['bytes'] / 1e6:,.1f} MB",
        "state at a step": duration(row["state_seconds"]),
        "resume": duration(row["resume_seconds"]),
    }


def printed(report: Report) -> None:
    """Print the table: for each graph and stage, the savers, and what each takes as a multiple of ours."""
    table = Table(header_style="bold")
    columns = ("net_seconds", "bytes", "state_seconds", "resume_seconds")
    rows = sorted(report.rows, key=lambda row: (row["graph"] != "messages", row["messages"]))
    for row in rows:
        ours = next(other for other in rows if (other["graph"], other["messages"]) == (row["graph"], row["messages"]))
        row["times_ours"] = {name: row[name] / ours[name] for name in columns}
        texts = shown(row)
        for name, title in zip(columns, ("less the graph", "on disk", "state at a step", "resume"), strict=True):
            if row is not ours:
                texts[title] += f" ({row['times_ours'][name]:.1f}×)"
        if not table.columns:
            for title in texts:
                table.add_column(title, justify="left" if title in ("graph", "saver") else "right")
        table.add_row(*texts.values())
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    for text in report.notes:
        console.print(text, highlight=False)


if __name__ == "__main__":
    main()

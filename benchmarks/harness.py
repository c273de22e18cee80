"""What the benchmarks share: options, measuring turn by turn, the table, and the JSON file.

A shared machine's figures move by a third from run to run. So each benchmark also does its work in the plainest way there is (the
floor), turn by turn with ctxlog, and reports the ratio: in each repetition ctxlog's time over the floor's, and of these the
median. 1.0 is as fast as the floor, 2.0 takes twice as long.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"

Work = Callable[[], float]
"""Does a fixed amount of work and gives the seconds of one unit of it (an append, an event), so that amounts can differ."""


def arguments(doc: str | None, add: Callable[[argparse.ArgumentParser], object] = lambda _: None) -> argparse.Namespace:
    """The options of a benchmark, from the command line."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds; its figures mean little")
    parser.add_argument("--repetitions", type=int, help="turns that each piece of work is measured in")
    add(parser)
    return parser.parse_args()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards. Beside the results: the usual folder for such things is memory on many machines, where
    a durable write costs nothing."""
    RESULTS.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=RESULTS))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def timed(step: Callable[[], object], count: int, into: list[float]) -> float:
    """Do a step so often; seconds of one on average. Each one's seconds are added to `into`."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    into += times
    return statistics.mean(times)


def in_turns(works: Mapping[str, Work], repetitions: int) -> dict[str, list[float]]:
    """Measure each piece of work once in each of several turns; who is first changes, so that none always follows another."""
    names = list(works)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            found[name].append(works[name]())
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of the values that is not below `percent` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100) - 1))]


class Report:
    """The results of one benchmark.

    Args:
        name: Of the benchmark; names the JSON file.
        quick: Whether it is a smoke run.
        unit: What one unit of work is, as in `event`.
    """

    def __init__(self, name: str, *, quick: bool, unit: str) -> None:
        self.name = name
        self.quick = quick
        self.unit = unit
        self.load = os.getloadavg()[0]
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        print(f"{name}: Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs, "
              f"load {self.load:.1f}{'; SMOKE RUN, its figures mean little' if quick else ''}", file=sys.stderr)  # fmt: skip

    def add(self, work: str, seconds: Sequence[float], floor_name: str, floor: Sequence[float], **more: Any) -> None:
        """Add a row: what took how long a unit in each repetition, and its floor in the same repetitions."""
        ratios = [ours / theirs for ours, theirs in zip(seconds, floor, strict=True)]
        self.rows.append(
            {
                "work": work,
                "seconds": statistics.median(seconds),
                "per_second": 1 / statistics.median(seconds),
                "floor": floor_name,
                "floor_seconds": statistics.median(floor),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "repetitions": len(ratios),
                **more,
            }
        )

    def note(self, text: str) -> None:
        """Add a line that is printed under the table."""
        self.notes.append(text)

    def finish(self) -> None:
        """Print the table, and write the JSON file."""
        table = Table(title=None, header_style="bold")
        table.add_column("work")
        for header in (f"time / {self.unit}", f"{self.unit}s / s", "floor", f"time / {self.unit}", "ratio", "(low – high)"):
            table.add_column(header, justify="left" if header == "floor" else "right")
        for row in self.rows:
            table.add_row(
                row["work"],
                duration(row["seconds"]),
                f"{row['per_second']:,.0f}",
                row["floor"],
                duration(row["floor_seconds"]),
                f"[bold]{row['ratio']:.2f}[/bold]",
                f"{row['ratio_low']:.2f} – {row['ratio_high']:.2f}",
            )
        width = None if sys.stdout.isatty() else 170
        console = Console(width=width)
        console.print(table)
        for text in self.notes:
            console.print(text, highlight=False)
        self.write()

    def write(self) -> None:
        """Write the JSON file."""
        RESULTS.mkdir(exist_ok=True)
        result = {
            "benchmark": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": self.quick,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "load_before": self.load,
            "rows": self.rows,
            "notes": self.notes,
        }
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"wrote {os.path.relpath(path)}", file=sys.stderr)


def memory_bytes() -> int:
    """The most memory that this process ever had at once."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} µs"

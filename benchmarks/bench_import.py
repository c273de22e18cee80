"""Import of recorded agent runs: events a second, from files to a durable log.

The floor reads the same files with the standard JSON parser and inserts the bytes that the import stored, one durable
transaction a run. Needs recorded runs in `../shared/data` from the repository's root; without them it says so and ends.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from itertools import count
from pathlib import Path

from harness import Report, arguments, in_turns, scratch
from rawlog import RawLog

from ctxlog import ContextLog
from ctxlog.errors import CtxlogError
from ctxlog.importers import import_path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SOURCES = ("tau-bench", "mini-swe-agent")


class Source:
    """One source of recorded runs. Where it has folders, they are the same tasks run again: each has an agent of its own."""

    def __init__(self, folder: Path, scratch_folder: Path) -> None:
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        self.parts: list[tuple[Path, str | None]] = [(path, path.name) for path in folders] or [(folder, None)]
        self.scratch = scratch_folder
        self.names = count()
        self.files = sorted(path for path in folder.rglob("*.json*") if path.is_file())
        self.runs: list[list[bytes]] = []
        self.events = 0
        self.last = self._import()
        with ContextLog.open(f"embedded:{self.last}") as log:
            for stream_id in log.matching():
                records = log.log.read(0, 0, log.log.bounds(0).end, key=stream_id.encode())
                self.runs.append([record.value or b"" for record in records])

    def _import(self) -> Path:
        target = self.scratch / f"import-{next(self.names)}"
        with ContextLog.open(f"embedded:{target}") as log:
            reports = [import_path(log, folder, agent=agent) for folder, agent in self.parts]
        failed = [failure for report in reports for failure in report.failed]
        self.events = sum(report.events_appended for report in reports)
        if not self.events or failed:
            raise CtxlogError("; ".join(map(str, failed)) or "no events")
        return target

    def ours(self) -> float:
        """Into a new log; opening and closing it is part of it."""
        shutil.rmtree(self.last)
        started = time.perf_counter()
        self.last = self._import()
        return (time.perf_counter() - started) / self.events

    def again(self) -> float:
        """The same import into a log that has it all: everything is compared, nothing is appended."""
        started = time.perf_counter()
        with ContextLog.open(f"embedded:{self.last}") as log:
            skipped = sum(import_path(log, folder, agent=agent).events_skipped for folder, agent in self.parts)
        assert skipped == self.events
        return (time.perf_counter() - started) / self.events

    def floor(self) -> float:
        """Parse, and insert."""
        path = self.scratch / f"floor-{next(self.names)}.sqlite"
        started = time.perf_counter()
        for file in self.files:
            data = file.read_bytes()
            json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
        raw = RawLog(path)
        for number, values in enumerate(self.runs):
            raw.append_all(values, number)
        raw.close()
        return (time.perf_counter() - started) / self.events


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    report = Report("import", quick=options.quick, unit="event")
    for name in SOURCES:
        if not (DATA / name).is_dir():
            report.note(f"{name}: skipped, there are no recorded runs in {Path('..') / 'shared' / 'data' / name}.")
            continue
        with scratch() as folder:
            try:
                source = Source(DATA / name, folder)
            except CtxlogError as error:
                report.note(f"{name}: skipped, it cannot be imported: {str(error)[:200]}")
                continue
            works = {"floor": source.floor, "ours": source.ours, "again": source.again}
            found = in_turns(works, options.repetitions or (2 if options.quick else 9))
            floor = "json.loads, one transaction a run"
            report.add(f"{name}: import", found["ours"], floor, found["floor"])
            report.add(f"{name}: import again", found["again"], floor, found["floor"])
            size = sum(map(len, (value for run in source.runs for value in run)))
            report.note(f"{name}: {len(source.runs)} runs, {source.events:,} events, {size / 1e6:.1f} MB of records.")
    report.finish()


if __name__ == "__main__":
    main()

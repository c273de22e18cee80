"""What it costs to start: imports, the command line's help, a process that reads a context or appends to one. The floor is
Python itself.

What everyone waits for at every command, and at every start of a short-lived agent. It should stay under 150 ms.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Report, Work, arguments, in_turns, scratch

from ctxlog import ContextLog

BUDGET_SECONDS = 0.150
"""Below it, people see no delay."""


def start(*arguments_of: str) -> Work:
    """A whole process, from its start to its end."""

    def work() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments_of], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    return work


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    report = Report("startup", quick=options.quick, unit="start")
    with scratch() as folder:
        url = f"embedded:{folder / 'log'}"
        with ContextLog.open(url) as log:
            log.context("agent/thread").add_message("user", "Hello")
        measure(report, url, options.repetitions or (3 if options.quick else 31))
    report.finish()


def measure(report: Report, url: str, repetitions: int) -> None:
    """Start each process in turn."""
    context = f"from ctxlog import ContextLog; context = ContextLog.open({url!r}).context('agent/thread')"
    works: dict[str, Work] = {
        "python -c pass": start("-c", "pass"),
        "import ctxlog": start("-c", "import ctxlog"),
        "from ctxlog import ContextLog": start("-c", "from ctxlog import ContextLog"),
        "open a log and read a context": start("-c", f"{context}; context.state"),
        "open a log and append a message": start("-c", f"{context}; context.add_message('user', 'Hello')"),
    }
    command = Path(sys.executable).with_name("ctxlog")
    if command.exists() and importlib.util.find_spec("ctxlog.cli"):
        works["ctxlog --help"] = start(str(command), "--help")
    else:
        report.note("ctxlog --help: skipped, the command is not installed.")
    for work in works.values():
        work()  # Fills the caches of files and of compiled modules.
    found = in_turns(works, repetitions)
    floor = found.pop("python -c pass")
    for name, seconds in found.items():
        report.add(name, seconds, "python -c pass", floor)
        kept = "kept" if statistics.median(seconds) <= BUDGET_SECONDS else "missed"
        report.note(f"{name}: budget of {BUDGET_SECONDS * 1e3:.0f} ms {kept}.")


if __name__ == "__main__":
    main()

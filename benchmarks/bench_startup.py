"""What it costs to start: `import ctxlog`, and the command line's help. The floor is Python itself.

What everyone waits for at every command, and at every start of a short-lived agent. It should stay under 150 ms.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Report, Work, arguments, in_turns

BUDGET_SECONDS = 0.150
"""What `import ctxlog` and `ctxlog --help` may take: below it, people see no delay."""


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
    works: dict[str, Work] = {"python -c pass": start("-c", "pass"), "python -c 'import ctxlog'": start("-c", "import ctxlog")}
    command = Path(sys.executable).with_name("ctxlog")
    if command.exists() and importlib.util.find_spec("ctxlog.cli"):
        works["ctxlog --help"] = start(str(command), "--help")
    else:
        report.note("ctxlog --help: skipped, the command is not installed.")
    for work in works.values():
        work()  # Fills the caches of files and of compiled modules.
    found = in_turns(works, options.repetitions or (3 if options.quick else 31))
    floor = found.pop("python -c pass")
    for name, seconds in found.items():
        report.add(name, seconds, "python -c pass", floor)
        kept = "kept" if statistics.median(seconds) <= BUDGET_SECONDS else "missed"
        report.note(f"{name}: budget of {BUDGET_SECONDS * 1e3:.0f} ms {kept}.")
    report.finish()


if __name__ == "__main__":
    main()

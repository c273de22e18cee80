"""What recording a decision with its reads costs, over one plain append with the same durability.

An agent waits for it once a decision: one durable write, whatever was read.
"""

from __future__ import annotations

import time

from harness import Report, Work, arguments, in_turns, scratch

from ctxlog import Context, ContextLog

MESSAGES = 100
READS = (0, 1, 5, 20)


def append(context: Context) -> Work:
    """One plain append, to a stream that nobody reads."""

    def work() -> float:
        started = time.perf_counter()
        context.set_fact("limit", 250)
        return time.perf_counter() - started

    return work


def decide(log: ContextLog, context: Context, reads: int) -> Work:
    """One decision that reads windows of 20 messages."""

    def work() -> float:
        started = time.perf_counter()
        with log.decision("refund", agent="refunds", model="scripted") as decision:
            for _ in range(reads):
                decision.read(context, max_messages=20, scopes=["default"])
            decision.outcome = {"refund": True}
        return time.perf_counter() - started

    return work


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    report = Report("decision", quick=options.quick, unit="decision")
    with scratch() as folder, ContextLog.open(f"embedded:{folder / 'log'}") as log:
        context = log.context("refunds/1")
        for number in range(MESSAGES):
            context.add_message("user", f"Message {number}, of some length, as messages have it.")
        works: dict[str, Work] = {"append": append(log.context("other/1"))}
        works |= {f"decision, reads: {reads}": decide(log, context, reads) for reads in READS}
        for work in works.values():
            work()  # Publishes the schemas.
        found = in_turns(works, options.repetitions or (20 if options.quick else 500))
        floor = found.pop("append")
        for name, seconds in found.items():
            report.add(name, seconds, "append", floor)
        report.finish()


if __name__ == "__main__":
    main()

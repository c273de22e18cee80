"""The kit can fail: each of these backends breaks one promise, and the kit finds it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BROKEN_BACKENDS = """
import pytest
from ctxlog.log.memory import MemoryLog
from ctxlog.testing.conformance import AppendingCase, FollowingCase, ReadingCase, TimesCase

class Forgets(MemoryLog):
    def append(self, records):
        placed = super().append(records)
        if len(records) > 2:
            self._records[records[0].partition].pop()
        return placed

class Shuffles(MemoryLog):
    def append(self, records):
        return super().append(records[::-1])

class IncludesTheEnd(MemoryLog):
    def read(self, partition, start, end, *, key=None):
        return super().read(partition, start, end + 1, key=key)

class IgnoresCase(MemoryLog):
    def read(self, partition, start, end, *, key=None):
        for record in super().read(partition, start, end):
            if key is None or record.key.lower() == key.lower():
                yield record

class GoesBackInTime(MemoryLog):
    def read(self, partition, start, end, *, key=None):
        for record in super().read(partition, start, end, key=key):
            yield record._replace(recorded_at=record.recorded_at - record.offset * 10)

class SaysMinusOne(MemoryLog):
    def offset_at(self, partition, time_ms):
        found = super().offset_at(partition, time_ms)
        return -1 if found == self.bounds(partition).end else found

class RepeatsKeys(MemoryLog):
    def keys(self, partition):
        return (record.key for record in self.read(partition, 0, 10**9))

class DropsOrigins(MemoryLog):
    def append(self, records):
        return super().append([record._replace(origin=None) for record in records])

class StripsValues(MemoryLog):
    def append(self, records):
        return super().append([record._replace(value=record.value.rstrip(b"\\0")) for record in records])

class StaysOpen(MemoryLog):
    def close(self):
        pass

class NeverWakes(MemoryLog):
    def wait(self, partition, end, timeout_seconds):
        return end

def suite(backend):
    class Suite(AppendingCase, ReadingCase, TimesCase, FollowingCase):
        def create_log(self, folder, partitions):
            return backend(partitions)
    Suite.__qualname__ = Suite.__name__ = "Test" + backend.__name__
    return Suite

for backend in MemoryLog.__subclasses__():
    globals()["Test" + backend.__name__] = suite(backend)
TestSound = suite(MemoryLog)
"""


def test_a_backend_that_breaks_a_promise_fails_the_kit(tmp_path: Path) -> None:
    file = tmp_path / "test_broken.py"
    file.write_text(BROKEN_BACKENDS, encoding="utf-8")
    # The plain tests must find these, and those that do not wait for what never comes.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=no",
        "-rf",
        "-c",
        "/dev/null",
    ]
    command += ["-k", "not byte_for_byte and not closing_ends and not following_the_end", f"--rootdir={tmp_path}", str(file)]
    done = subprocess.run(command, cwd=tmp_path, text=True, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    failed = set(re.findall(r"^FAILED \S*::Test(\w+)::", done.stdout, re.M))
    broken = set(re.findall(r"^class (\w+)\(MemoryLog\)", BROKEN_BACKENDS, re.M))
    assert failed == broken, done.stdout[-2000:]

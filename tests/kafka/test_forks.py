"""Both processes of a fork go on with one log on Kafka, whose clients have threads that a fork does not take along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kafka_forks
from ctxlog.log.kafka import KafkaLog

SECONDS_MAX = 60


def run(name: str, url: str) -> None:
    """Run a case in a process of its own; with its children it is killed where it hangs."""
    KafkaLog.create(url, 2)[0].close()
    process = subprocess.Popen(
        [sys.executable, kafka_forks.__file__, name, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        pytest.fail(f"{name} hung: {out}")
    assert process.returncode == 0, out


@pytest.mark.parametrize("name", kafka_forks.CASES)
def test_both_processes_of_a_fork_go_on(name: str, kafka: Any) -> None:
    run(name, f"{kafka.url()}&cache=off")


@pytest.mark.parametrize("name", ["both_go_on", "fork_while_threads_use_it", "fork_while_a_thread_holds_locks"])
def test_both_processes_of_a_fork_go_on_with_a_stream_index(name: str, kafka: Any, tmp_path: Path) -> None:
    run(name, f"{kafka.url()}&cache={tmp_path}")

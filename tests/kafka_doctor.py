"""What the tests of `ctxlog doctor` on Kafka share: what it found, and changes to topics that it must notice."""

from __future__ import annotations

import json
import time
from functools import cache

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from ctxlog.cli.app import app

LOG_SETTINGS = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": "2097152",
}
ABSENT = "127.0.0.1:1"
"""Where nobody listens."""


class Findings:
    """What `doctor` found."""

    def __init__(self, checks: list[dict[str, str]]) -> None:
        self.checks = checks

    def of(self, check: str, status: str | None = None) -> list[dict[str, str]]:
        return [one for one in self.checks if one["check"] == check and status in (None, one["status"])]

    def one(self, check: str, status: str | None = None) -> dict[str, str]:
        (found,) = self.of(check, status)
        return found

    @property
    def failed(self) -> list[str]:
        return [one["check"] for one in self.checks if one["status"] == "failed"]

    @property
    def warned(self) -> list[str]:
        return [one["check"] for one in self.checks if one["status"] == "warning"]


def run_here(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, Findings]:
    """`ctxlog doctor` in this process, for what cannot be had from a real cluster."""
    with pytest.raises(SystemExit) as ended:
        app.main(["doctor", "--log", url, "-o", "json"], prog_name="ctxlog")
    return int(ended.value.code or 0), Findings(json.loads(capsys.readouterr().out)["checks"])


@cache
def admin_of(bootstrap: str) -> AdminClient:
    """Kept: what is asked of a client that is gone has no answer."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": "0"})


def change(bootstrap: str, topic: str, **values: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    deadline = time.monotonic() + 120
    while True:
        try:
            for future in admin_of(bootstrap).incremental_alter_configs([resource], request_timeout=10).values():
                future.result()
            break
        except KafkaException:  # The controller was killed, and another one is not there yet.
            assert time.monotonic() < deadline
            admin_of.cache_clear()
    time.sleep(0.3)

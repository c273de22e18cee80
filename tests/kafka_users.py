"""Users of a broker with the ACLs that `docs/how-to/kafka-access.md` lists, read from its table: page and tests cannot differ."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

import brokers

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "kafka-access.md").read_text("utf-8")
SECRET = "hunter2"
"""Part of each password."""

PROGRAM = Path(sys.executable).with_name("ctxlog")


class Acl(NamedTuple):
    """Some operations on one resource."""

    kind: str
    prefix: bool
    operations: frozenset[str]


def table() -> dict[str, set[Acl]]:
    """The page's table of ACLs, by who has them."""
    found: dict[str, set[Acl]] = {}
    for who, kind, name, star, operations in re.findall(r"^\| (\w+) \| (\w+) `([\w.]+?)(\*?)` \| (.+) \|$", PAGE, re.M):
        assert name == ("ctxlog" if star else "ctxlog.events")
        found.setdefault(who, set()).add(Acl(kind, bool(star), frozenset(re.findall(r"`(\w+)`", operations))))
    return found


ACLS = table()


class Users:
    """Users of one broker, each with the ACLs of a kind of user or with other ones, on a topic."""

    def __init__(self, cluster: brokers.Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.admin = AdminClient(cluster.client())
        self.topic = f"access-{time.time_ns()}"
        self._numbers = count()

    def add(self, who: str, *, acls: set[Acl] | None = None, topic: str | None = None) -> User:
        name = f"{who}-{time.time_ns()}-{next(self._numbers)}"
        password = f"{SECRET}-{name}"
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        change = UserScramCredentialUpsertion(name, info, password.encode())
        self.admin.alter_user_scram_credentials([change])[name].result()
        user = User(self, name, password)
        for acl in ACLS[who] if acls is None else acls:
            self.allow(user, acl, topic or self.topic)
        user.wait_until_known()
        return user

    def allow(self, user: User, acl: Acl, topic: str) -> None:
        pattern = ResourcePatternType.PREFIXED if acl.prefix else ResourcePatternType.LITERAL
        kind, name = ResourceType[acl.kind.upper()], "ctxlog" if acl.kind == "Group" else topic
        bindings = [
            AclBinding(kind, name, pattern, f"User:{user.name}", "*", operation_of(one), AclPermissionType.ALLOW)
            for one in acl.operations
        ]
        for future in self.admin.create_acls(bindings).values():
            future.result()
        mine = AclBindingFilter(
            kind, name, pattern, f"User:{user.name}", None, AclOperation.ANY, AclPermissionType.ANY
        )  # fmt: skip
        deadline = time.monotonic() + 30  # The broker hears of them a little later than the controller.
        while len(self.admin.describe_acls(mine).result()) < len(bindings):
            assert time.monotonic() < deadline


def operation_of(name: str) -> AclOperation:
    return AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()]


class User:
    """A user with a file of properties."""

    def __init__(self, users: Users, name: str, password: str) -> None:
        self.users, self.name, self.password = users, name, password
        self.file = users.folder / f"{name}.properties"
        self.write()

    def write(self, password: str | None = None, *more: str) -> None:
        settings = self.users.cluster.client(self.name, password or self.password)
        del settings["bootstrap.servers"]
        self.file.write_text("\n".join([f"{name}={value}" for name, value in settings.items()] + list(more)), "utf-8")

    def url(self, topic: str | None = None) -> str:
        return f"kafka://{self.users.cluster.bootstrap}?topic={topic or self.users.topic}&properties={self.file}"

    @property
    def settings(self) -> dict[str, str]:
        return self.users.cluster.client(self.name, self.password)

    def wait_until_known(self) -> None:
        """Until the brokers know user and ACLs, which came in one after the other."""
        admin = AdminClient({**self.settings, "log_level": "0"})
        deadline = time.monotonic() + 30
        while True:
            try:
                admin.list_topics(timeout=1)
                return
            except KafkaException:
                assert time.monotonic() < deadline

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run `ctxlog`; what it shows."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CTXLOG")}
        environment |= {"CTXLOG_URL": self.url(), "COLUMNS": "200", "NO_COLOR": "1"}
        done = subprocess.run(
            [PROGRAM, *arguments], cwd=self.users.folder, env=environment, stdin=subprocess.DEVNULL, text=True, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, f"ctxlog {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}"
        assert SECRET not in done.stdout
        assert "Traceback" not in done.stdout
        assert "fault in ctxlog" not in done.stdout
        return done.stdout

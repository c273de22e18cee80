"""What the macros say of any version is what a replay says, of forks too; and what cannot be known is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings

import oracle
from ctxlog import ContextLog
from ctxlog.errors import LineageError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtTime, AtVersion
from ctxlog.projection.projector import Projector
from ctxlog.projection.states import state_at, state_of
from ctxlog.replay.replayer import Replayer
from unit.test_core_against_oracle import Play, plays, state_by_oracle


def check_every_version(connection: duckdb.DuckDBPyConnection, replayer: Replayer, stream_id: str, versions: int) -> None:
    for version in range(versions + 1):
        try:
            expected = replayer.replay(stream_id, AtVersion(version)).state
        except LineageError:
            with pytest.raises(duckdb.InvalidInputException, match="fork"):
                state_at(connection, stream_id, version)
            continue
        assert state_at(connection, stream_id, version).to_dict() == expected.to_dict(), f"{stream_id}@{version}"


@settings(max_examples=15)
@given(play=plays())
def test_states_by_the_macros_are_those_of_a_replay_at_every_version(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    projector = Projector(play.log, tmp_path_factory.mktemp("views") / "views.duckdb")
    projector.run_once()
    replayer = Replayer(play.log)
    for stream_id, told in play.told.items():
        check_every_version(projector.store.connection, replayer, stream_id, len(oracle.arbitrate(stream_id, told).accepted))
    projector.close()

"""Views that are made anew are looked at again before they take the place of the old ones, which stay until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctxlog.errors import StorageError, ViewsBusyError, ViewsError, ViewsFullError
from ctxlog.log.memory import MemoryLog
from ctxlog.projection import rebuild as module
from ctxlog.projection.custom import SqlViews
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Projector
from ctxlog.projection.rebuild import check, rebuild, rebuild_one
from ctxlog.projection.running import Running
from ctxlog.projection.store import ViewStore
from running import Failing, contents, expected, rows, run, until, write


@pytest.fixture
def memory() -> MemoryLog:
    log = MemoryLog(2, offset_step=3)
    write(log, 30)
    return log


@pytest.fixture
def instance(tmp_path: Path, memory: MemoryLog) -> Instance:
    """With views that lack something."""
    found = Instance(tmp_path / "views")
    Running(memory, found).run(once=True)
    write(memory, 5)
    return found


def files(instance: Instance) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in instance.folder.iterdir()}


def test_what_is_made_anew_is_what_is_projected_in_one_go(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    made = rebuild(memory, instance, projecting=lambda *step: steps.append(step), checking=lambda *step: steps.append(step))
    assert made.records == len(contents(instance.published)["events"])
    assert made.next_offsets == {partition: memory.bounds(partition).end for partition in range(2)}
    assert contents(instance.published) == contents(instance.file) == expected(memory, tmp_path / "whole.duckdb")
    assert steps[-1][0] == steps[-1][1]
    write(memory, 5)
    Running(memory, instance).run(once=True)
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM events WHERE record_offset = 0 AND partition = 0",
        "INSERT INTO events FROM events WHERE record_offset = 0 AND partition = 0",
        "UPDATE events SET record_offset = 1 WHERE record_offset = 0 AND partition = 0",
        "UPDATE projection.progress SET last_digest = 'x' WHERE partition = 0",
        "UPDATE projection.progress SET last_offset = last_offset - 3 WHERE partition = 0",
    ],
)
def test_a_second_look_finds_what_is_not_what_the_log_says(memory: MemoryLog, tmp_path: Path, damage: str) -> None:
    projector = Projector(memory, tmp_path / "views.duckdb")
    projector.run_once()
    check(memory, projector.store)
    assert projector.store.connection.execute(damage).fetchone() == (1,)
    with pytest.raises(ViewsError, match=r"partition 0: expected \d+ rows .*the old views stay"):
        check(memory, projector.store)
    projector.close()


def _fails(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("where", ["check", "commit", "log", "ctrl-c"])
def test_old_views_stay_where_new_ones_cannot_be_made(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before, log, error = files(instance), Failing(memory), Exception
    match where:
        case "check":
            monkeypatch.setattr(module, "check", _fails(ViewsError("differs")))
            error = ViewsError
        case "commit":
            monkeypatch.setattr(ViewStore, "commit", _fails(ViewsFullError("full")))
            error = ViewsFullError
        case "log":
            log.fail = lambda what: _fails(StorageError("away"))() if what == "read" else None
            error = StorageError
        case _:
            monkeypatch.setattr(module, "check", _fails(KeyboardInterrupt()))
            error = KeyboardInterrupt
    with pytest.raises(error):
        rebuild(log, instance)
    assert files(instance) == before


def test_a_file_that_was_not_written_to_its_end_is_not_taken(memory: MemoryLog, instance: Instance) -> None:
    before = files(instance)
    projector = Projector(memory, instance.draft)
    projector.run_once()
    projector.close()
    instance.draft.with_name(f"{instance.draft.name}.wal").touch()
    with pytest.raises(ViewsFullError, match="not all of it could be written"):
        instance.adopt_draft()
    instance.drop_draft()
    assert files(instance) == before


def test_what_the_old_file_had_not_written_yet_does_not_get_into_the_new_one(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projector that was killed leaves a write-ahead log beside its file; DuckDB would play it into whatever has the name."""
    wal = instance.file.with_name(f"{instance.file.name}.wal")
    projector = Projector(memory, instance.file)
    projector.run_once()
    left = {path: path.read_bytes() for path in (instance.file, wal)}
    projector.close()
    for path, content in left.items():
        path.write_bytes(content)
    adopt, seen = Instance.adopt_draft, []

    def adopts(self: Instance) -> None:
        adopt(self)
        seen.append(wal.exists())

    monkeypatch.setattr(Instance, "adopt_draft", adopts)
    rebuild(memory, instance)
    assert seen == [False]
    assert contents(instance.file) == expected(memory, tmp_path / "whole.duckdb")


def test_it_refuses_while_a_projector_runs(memory: MemoryLog, instance: Instance) -> None:
    with run(memory, instance):
        until(lambda: rows(instance.published))
        with pytest.raises(ViewsBusyError):
            rebuild(memory, instance)
    rebuild(memory, instance)


COUNTED = SqlViews("counted", "CREATE VIEW n AS SELECT count(*) AS n FROM events", "counted.sql")


def test_it_says_what_was_added_and_is_not_there_any_more(memory: MemoryLog, instance: Instance) -> None:
    Running(memory, instance, projections=[COUNTED]).run(once=True)
    said: list[str] = []
    rebuild(memory, instance, [COUNTED], tell=said.append)
    assert said == []
    rebuild(memory, instance, tell=said.append)
    assert said == ["projection counted: dropped, because it is not named any more."]


def test_one_view_is_not_made_of_a_file_that_is_not_there(memory: MemoryLog, instance: Instance) -> None:
    Running(memory, instance, projections=[COUNTED]).run(once=True)
    instance.file.unlink()
    before = files(instance)
    with pytest.raises(ViewsError, match="there are no views of which counted could be made"):
        rebuild_one(memory, instance, "counted", [COUNTED], print)
    assert {name: found for name, found in files(instance).items() if not name.endswith(".lock")} == {
        name: found for name, found in before.items() if not name.endswith(".lock")
    }


def test_what_a_killed_rebuild_left_is_gone_after_the_next_run(memory: MemoryLog, instance: Instance) -> None:
    for name in (".current.duckdb.new", ".current.duckdb.new.wal", ".current.duckdb.new.tmp/duckdb_temp_storage-0.tmp"):
        (instance.folder / name).parent.mkdir(exist_ok=True)
        (instance.folder / name).write_bytes(b"x" * 100)
    Running(memory, instance).run(once=True)
    assert not [name for name in files(instance) if ".new" in name]

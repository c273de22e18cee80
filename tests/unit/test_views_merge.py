"""One published file out of several."""

from __future__ import annotations

import fcntl
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog.errors import ViewsBusyError, ViewsError
from ctxlog.projection.custom import ProjectedEvent, Projection, SqlViews
from ctxlog.projection.merge import MERGED, merge
from ctxlog.projection.query import Views
from views_made import STREAMS, all_of, asked, log_of, published, write_more


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Views in several files: of a partition the first knows more, of two the second, one only the third."""
    folder = tmp_path / "several"
    log = log_of()
    published(log, folder, "b", [0, 1])
    write_more(log)
    published(log, folder, "a", [0, 2])
    published(log, folder, "c", [3])
    return folder


def alone(path: Path, tmp_path: Path) -> Path:
    """A file in a folder of its own."""
    made = tmp_path / "alone"
    made.mkdir()
    shutil.copy(path, made)
    return made


def test_it_says_what_they_say_together(several: Path, tmp_path: Path) -> None:
    expected = all_of(several)
    with Views(several) as views:
        ages = {partition.partition: partition.published_at for partition in views.coverage}
    sources = merge(several, several / MERGED)
    assert [source.path.name for source in sources] == ["a.duckdb", "b.duckdb", "c.duckdb"]
    assert all_of(several) == expected
    folder = alone(several / MERGED, tmp_path)
    assert all_of(folder) == expected
    with Views(folder) as views:  # It is as old as what it was made of.
        assert {partition.partition: partition.published_at for partition in views.coverage} == ages


def test_it_is_a_published_file_like_any_other(several: Path) -> None:
    merge(several, several / MERGED)
    assert stat.S_IMODE((several / MERGED).stat().st_mode) == 0o600
    assert sorted(path.name for path in several.iterdir() if "merged" in path.name) == [".merged.duckdb.lock", MERGED]
    with duckdb.connect(str(several / MERGED), read_only=True) as connection:
        tags = connection.execute("SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal").fetchone()
        controls = connection.execute("SELECT count(*) FROM projection.controls").fetchone()
        assert tags is not None
        assert "1.5.0" in tags[0]
        assert controls is not None
        assert controls[0] > 0


def test_it_is_made_anew_from_the_others_alone(several: Path) -> None:
    """What is nowhere else any more, because it was erased there, does not come back."""
    merge(several, several / MERGED)
    (several / "c.duckdb").unlink()
    sources = merge(several, several / MERGED)
    assert [source.path.name for source in sources] == ["a.duckdb", "b.duckdb"]
    with Views(several) as views:
        assert [partition.partition for partition in views.coverage] == [0, 1, 2]


def test_a_reader_keeps_the_last_one(several: Path, tmp_path: Path) -> None:
    merge(several, several / MERGED)
    for name in ("a", "b", "c"):
        (several / f"{name}.duckdb").rename(tmp_path / f"{name}.duckdb")
    with Views(several) as views:
        before = asked(views, "FROM messages ORDER BY ALL")
        (tmp_path / "b.duckdb").rename(several / "b.duckdb")
        merge(several, several / MERGED)
        assert asked(views, "FROM messages ORDER BY ALL") == before


def test_what_an_instance_publishes_is_no_target(several: Path) -> None:
    before = (several / "a.duckdb").read_bytes()
    with pytest.raises(ViewsError, match="an instance of the projector publishes this file"):
        merge(several, several / "a.duckdb")
    assert (several / "a.duckdb").read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "log.sqlite", ".a.duckdb", ".hidden"])
def test_what_is_no_published_file_is_not_replaced(several: Path, name: str) -> None:
    target = several / name
    if not name.startswith("."):
        target.write_bytes(b"what somebody needs")
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(ViewsError, match="this is no published file of views, and is not replaced"):
        merge(several, target)
    assert (target.read_bytes() if target.exists() else None) == before


def test_nothing_is_made_where_a_file_is_not_in_order(several: Path) -> None:
    (several / "x.duckdb").write_bytes(b"no views")
    with pytest.raises(ViewsError, match=r"x\.duckdb"):
        merge(several, several / MERGED)
    assert not (several / MERGED).exists()
    with pytest.raises(ViewsError, match="no such folder"):
        merge(several / "none", several / MERGED)
    (several / "x.duckdb").unlink()
    with pytest.raises(ViewsError, match="cannot be written"):
        merge(several, several / "none" / MERGED)


def test_there_is_nothing_to_merge_but_itself(several: Path, tmp_path: Path) -> None:
    merge(several, several / MERGED)
    folder = alone(several / MERGED, tmp_path)
    with pytest.raises(ViewsError, match="nothing to merge"):
        merge(folder, folder / MERGED)


def test_one_process_at_a_time_makes_it(several: Path) -> None:
    with (several / f".{MERGED}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ViewsBusyError):
            merge(several, several / MERGED)
    merge(several, several / MERGED)


class Said(Projection):
    """What was said, in which version somebody makes it."""

    name = "said"
    version = 1
    tables = "CREATE TABLE texts (text VARCHAR, made INTEGER)"
    types = ("ctxlog.MessageAppended",)

    def project(self, event: ProjectedEvent) -> Iterable[tuple[str, Sequence[Any]]]:
        yield "texts", (event.payload["content"], self.version)


class SaidAnew(Said):
    version = 2


COUNT = SqlViews("counted", "CREATE VIEW n AS SELECT count(*) AS n FROM events", "counted.sql")


@pytest.mark.parametrize(
    ("first", "second", "there"),
    [
        ([Said(), COUNT], [Said(), COUNT], {"said", "counted"}),
        ([Said(), COUNT], [COUNT], {"counted"}),
        ([COUNT], [Said(), COUNT], {"counted"}),
        ([Said()], [SaidAnew()], set()),
        ([SaidAnew(), COUNT], [Said()], set()),
    ],
)
def test_what_people_added_is_there_where_all_files_have_it_in_one_version(
    tmp_path: Path, first: list[Any], second: list[Any], there: set[str]
) -> None:
    """As while a change of it reaches one instance after the other. All else is there whatever they have."""
    folder, log = tmp_path / "views", log_of()
    published(log, folder, "a", [0, 1], first)
    published(log, folder, "b", [2, 3], second)
    texts = sorted(f"Hello from {stream_id}" for stream_id in STREAMS)
    merge(folder, tmp_path / "merged.duckdb")
    for place in (folder, alone(tmp_path / "merged.duckdb", tmp_path)):
        with Views(place) as views:
            assert sorted(text for (text,) in asked(views, "SELECT content FROM messages")) == texts
            assert {name for (name,) in asked(views, "SELECT name FROM projection.custom")} == there
            schemas = {
                name
                for (name,) in asked(views, "SELECT schema_name FROM duckdb_schemas() WHERE database_name = current_database()")
            }
            assert schemas & {"said", "counted"} == there
            if "said" in there:
                assert sorted(asked(views, "SELECT text, made FROM said.texts")) == [(text, 1) for text in texts]
            if "counted" in there:
                ((counted,),) = asked(views, "FROM counted.n")
                assert [(counted,)] == asked(views, "SELECT count(*) FROM events")

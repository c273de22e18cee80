"""SQL reaches the views and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ctxlog.errors import InvalidInputError
from ctxlog.projection.query import Views
from views_made import asked, log_of, published

SECRET = "what no query says"

ATTACKS = """
SELECT * FROM read_csv('{secret}')
SELECT * FROM read_text('{secret}')
SELECT * FROM read_blob('{secret}')
SELECT * FROM read_json('{secret}')
SELECT * FROM read_parquet('{secret}')
FROM '{secret}'
FROM '{views}'
FROM read_blob('{views}')
FROM read_text('{views}.wal')
FROM read_duckdb('{views}')
FROM glob('{folder}/*')
FROM glob('{views}')
FROM sniff_csv('{secret}')
FROM parquet_metadata('{secret}')
FROM query('FROM read_text(''{secret}'')')
FROM query_table('{secret}')
FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{secret}'')'))
FROM read_csv('http://127.0.0.1:9/x')
FROM 'http://127.0.0.1:9/x.parquet'
FROM 's3://bucket/x.parquet'
FROM secret_of_this_process
FROM python_map_function(1)
SELECT getenv('HOME')
COPY facts TO '{out}'
COPY (SELECT 1) TO '{out}' (FORMAT parquet)
COPY events FROM '{secret}'
COPY FROM DATABASE views TO memory
EXPORT DATABASE '{out}'
IMPORT DATABASE '{folder}'
ATTACH '{out}' AS other
ATTACH '{secret}' AS other (READ_ONLY)
ATTACH ':memory:' AS other
DETACH published_0
USE memory
INSTALL httpfs
LOAD httpfs
UPDATE EXTENSIONS
SET lock_configuration = false
SET enable_external_access = true
SET memory_limit = '100GB'
SET temp_directory = '{out}'
SET VARIABLE x = 1
RESET lock_configuration
PRAGMA threads = 1
PRAGMA database_list
CALL enable_logging()
FROM enable_logging(storage := 'file', storage_path := '{out}')
FROM enable_profiling(save_location := '{out}')
FROM disable_logging()
CREATE TABLE x (a INTEGER)
CREATE TEMP TABLE x AS FROM facts
CREATE TEMP VIEW x AS FROM facts
CREATE OR REPLACE VIEW facts AS SELECT 1
CREATE MACRO m(a) AS a
CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')
INSERT INTO events (partition) VALUES (1)
UPDATE events SET content = 'x'
DELETE FROM events
TRUNCATE events
MERGE INTO streams USING facts ON true WHEN MATCHED THEN DELETE
DROP TABLE events
ALTER TABLE events ADD COLUMN x INTEGER
WITH x AS (DELETE FROM events RETURNING *) FROM x
WITH x AS (INSERT INTO streams FROM streams RETURNING *) FROM x
EXPLAIN ANALYZE DELETE FROM events
EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'
EXPLAIN ANALYZE COPY (SELECT 1) TO '{views}'
EXPLAIN ANALYZE CREATE TABLE memory.x (a INTEGER)
EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{out}'
/* */ EXPLAIN ANALYZE CREATE TABLE memory.x (a INTEGER)
EXPLAIN ANALYZE EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'
BEGIN
CHECKPOINT
FORCE CHECKPOINT
VACUUM
ANALYZE
PREPARE p AS SELECT 1
EXECUTE p
SELECT 1; DROP TABLE events
SELECT * INTO OUTFILE '{out}' FROM facts
""".strip().splitlines()

secret_of_this_process = [SECRET]


@pytest.fixture(scope="module", params=["one file", "several"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views, in one file or in two, with a secret beside them."""
    made: Path = tmp_path_factory.mktemp("views")
    log = log_of()
    if request.param == "several":
        published(log, made, "other", [0, 1])
        published(log, made, "current", [2, 3])
    else:
        published(log, made)
    (made / "secret.csv").write_text(f"a\n{SECRET}\n")
    return made


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_and_changes_nothing(folder: Path, attack: str) -> None:
    places = {
        "secret": folder / "secret.csv",
        "views": folder / "current.duckdb",
        "folder": folder,
        "out": folder / "out",
    }
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
    with Views(folder) as views:
        with pytest.raises(InvalidInputError):
            asked(views, attack.format(**places))
        assert asked(views, "SELECT count(*) FROM streams") == [(12,)]
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()} == before


def test_what_reads_settings_and_the_catalog_is_harmless(folder: Path) -> None:
    with Views(folder) as views:
        found = str(asked(views, "FROM duckdb_settings()")) + str(asked(views, "FROM duckdb_databases()"))
        assert SECRET not in found
        assert asked(views, "SELECT current_setting('enable_external_access'), current_setting('lock_configuration')") == [
            (False, True)
        ]
        assert asked(views, "FROM duckdb_temporary_files()") == []
        assert asked(views, "FROM duckdb_secrets()") == []
        assert asked(views, "FROM which_secret('x', 's3')") == []

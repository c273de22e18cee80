"""What analysts query: views over `events`, with stable names. `docs/reference/views.md` describes every column.

They hold a fork's own events; what it has of its parent, the macros of `asof.py` compose.

Names are written with their schema: DuckDB looks up those that a view leaves open in the schema of the view, and then in the
database of whoever asks, which is another one where the file was attached.
"""

from __future__ import annotations

from ctxlog.projection.asof import MACROS

_VIEWS = """
CREATE VIEW main.fact_history AS
SELECT stream_id, key, version, type = 'ctxlog.FactRemoved' AS removed, value, scope, valid_from, valid_to, expires_at,
    decided_at AS recorded_from,
    lead(decided_at) OVER (PARTITION BY stream_id, key ORDER BY version) AS recorded_until,
    lead(version) OVER (PARTITION BY stream_id, key ORDER BY version) AS replaced_by,
    occurred_at, actor, agent_id, event_id, causation_id, correlation_id
FROM main.events
WHERE type IN ('ctxlog.FactSet', 'ctxlog.FactRemoved') AND outcome = 'accepted' AND anomaly IS NULL;

CREATE VIEW main.facts AS
SELECT stream_id, key, value, scope, valid_from, valid_to, expires_at, version, recorded_from AS recorded_at, occurred_at, actor,
    agent_id, event_id
FROM main.fact_history WHERE replaced_by IS NULL AND NOT removed;

CREATE VIEW projection.calls AS
SELECT *, row_number() OVER call = 1 AS first,
    row_number() OVER (PARTITION BY stream_id, call_id ORDER BY version DESC) = 1 AS last
FROM main.events
WHERE type IN ('ctxlog.ToolCalled', 'ctxlog.ToolReturned') AND outcome = 'accepted' AND anomaly IS NULL
WINDOW call AS (PARTITION BY stream_id, call_id ORDER BY version);

CREATE VIEW projection.redactions AS
SELECT stream_id, message_id, event_id, version, decided_at FROM main.events
WHERE type = 'ctxlog.MessageRedacted' AND outcome = 'accepted' AND anomaly IS NULL;

CREATE VIEW main.messages AS
WITH asked AS (
    SELECT stream_id, message_id, list(call_id ORDER BY version) AS tool_calls
    FROM projection.calls WHERE first AND message_id IS NOT NULL GROUP BY ALL
)
SELECT m.stream_id, row_number() OVER (PARTITION BY m.stream_id ORDER BY m.version) - 1 AS position, m.event_id AS message_id,
    CASE m.type WHEN 'ctxlog.ToolReturned' THEN 'tool' ELSE m.role END AS role,
    CASE WHEN r.event_id IS NULL THEN m.content END AS content,
    CASE WHEN r.event_id IS NULL THEN m.parts END AS parts,
    m.name, coalesce(asked.tool_calls, []) AS tool_calls,
    CASE m.type WHEN 'ctxlog.ToolReturned' THEN m.call_id ELSE m.tool_call_id END AS tool_call_id,
    m.scope, m.version, m.decided_at AS recorded_at, m.occurred_at, m.actor, m.agent_id, r.event_id AS redacted_by
FROM main.events m
LEFT JOIN projection.redactions r ON r.stream_id = m.stream_id AND r.message_id = m.event_id
LEFT JOIN asked ON asked.stream_id = m.stream_id AND asked.message_id = m.event_id
WHERE m.type IN ('ctxlog.MessageAppended', 'ctxlog.ToolReturned') AND m.outcome = 'accepted' AND m.anomaly IS NULL;

CREATE VIEW main.tool_calls AS
WITH begun AS (SELECT * FROM projection.calls WHERE first),
    tries AS (
        SELECT stream_id, call_id, count(*) AS attempts, arg_max_null(decided_at, version) AS called_at
        FROM projection.calls WHERE type = 'ctxlog.ToolCalled' GROUP BY ALL
    ),
    latest AS (SELECT * FROM projection.calls WHERE last)
SELECT b.stream_id, b.call_id, b.name, b.arguments,
    CASE WHEN l.type = 'ctxlog.ToolCalled' THEN 'open' WHEN l.failed THEN 'failed' ELSE 'returned' END AS state,
    CASE WHEN l.type = 'ctxlog.ToolReturned' AND r.event_id IS NULL THEN l.content END AS result,
    CASE WHEN l.type = 'ctxlog.ToolReturned' AND r.event_id IS NULL THEN l.parts END AS result_parts,
    CASE WHEN l.type = 'ctxlog.ToolReturned' THEN l.event_id END AS result_id,
    b.message_id, b.source_id, b.idempotency_key,
    CASE WHEN l.type = 'ctxlog.ToolCalled' AND l.lease_expires_at IS NOT NULL THEN l.event_id END AS lease_event_id,
    CASE WHEN l.type = 'ctxlog.ToolCalled' THEN l.lease_expires_at END AS lease_expires_at,
    b.scope, t.attempts, b.decided_at AS first_called_at, t.called_at,
    CASE WHEN l.type = 'ctxlog.ToolReturned' THEN l.decided_at END AS returned_at,
    CASE WHEN l.type = 'ctxlog.ToolReturned' THEN date_sub('millisecond', t.called_at, l.decided_at) END AS duration_ms,
    b.version, l.version AS changed_version, b.actor, b.agent_id
FROM begun b
JOIN latest l ON l.stream_id = b.stream_id AND l.call_id = b.call_id
JOIN tries t ON t.stream_id = b.stream_id AND t.call_id = b.call_id
LEFT JOIN projection.redactions r ON r.stream_id = l.stream_id AND r.message_id = l.event_id;

CREATE VIEW main.decisions AS
SELECT stream_id, decision_id, kind, model, parameters, decision_outcome AS outcome, rationale, called AS tool_calls,
    failed, failure, reads, started_at, ended_at,
    date_sub('millisecond', started_at, ended_at) AS duration_ms, version, decided_at AS recorded_at, occurred_at, actor,
    agent_id, event_id, causation_id, correlation_id
FROM main.events WHERE type = 'ctxlog.DecisionRecorded' AND outcome = 'accepted' AND anomaly IS NULL;

CREATE VIEW main.reads AS
SELECT stream_id, event_id AS read_id, decision_id, read.stream_id AS read_stream_id, read.version AS read_version,
    read.chain_head AS read_chain_head, read.revealed AS revealed, read.withheld AS withheld, selection, judged_at, token_counter,
    token_counter_version, selection_digest, version, decided_at AS recorded_at, actor, agent_id
FROM (
    SELECT *, unnest(streams) AS read FROM main.events
    WHERE type = 'ctxlog.ContextRead' AND outcome = 'accepted' AND anomaly IS NULL
);

CREATE VIEW main.contexts AS
WITH message_counts AS (
        SELECT stream_id, count(*) AS messages, arg_max_null(role, version) AS last_role,
            arg_max_null(content, version) AS last_content
        FROM main.messages GROUP BY stream_id
    ),
    fact_maps AS (
        SELECT stream_id, count(*) AS facts, map_from_entries(list((key, value) ORDER BY key)) AS fact_values
        FROM main.facts GROUP BY stream_id
    ),
    calls AS (
        SELECT stream_id, count(*) AS tool_calls,
            coalesce(list(call_id ORDER BY version) FILTER (state = 'open'), []) AS open_calls
        FROM main.tool_calls GROUP BY stream_id
    )
SELECT s.stream_id, s.agent_id, s.version, s.chain_head, s.closed, s.parent_stream_id, s.parent_version,
    coalesce(m.messages, 0) AS messages, m.last_role, m.last_content,
    coalesce(f.facts, 0) AS facts, coalesce(f.fact_values, MAP {}) AS fact_values,
    coalesce(c.tool_calls, 0) AS tool_calls, coalesce(c.open_calls, []) AS open_calls,
    s.effect_at AS changed_at, s.newer
FROM main.streams s
LEFT JOIN message_counts m USING (stream_id)
LEFT JOIN fact_maps f USING (stream_id)
LEFT JOIN calls c USING (stream_id)
WHERE s.version > 0;

CREATE VIEW main.agents AS
WITH latest AS (SELECT max(last_at) AS at FROM main.streams),
    days AS (
        SELECT stream_id, partition, count(*) AS records, sum(bytes) AS bytes FROM main.events, latest
        WHERE recorded_at > latest.at - INTERVAL 1 DAY AND stream_id IS NOT NULL GROUP BY stream_id, partition
    ),
    calls AS (SELECT stream_id, count(*) AS open_calls FROM main.tool_calls WHERE state = 'open' GROUP BY stream_id)
SELECT s.agent_id, count(*) AS streams, sum(s.version)::BIGINT AS events, sum(s.rejected)::BIGINT AS rejected,
    min(s.first_at) AS first_at, max(s.last_at) AS last_at, coalesce(sum(c.open_calls), 0)::BIGINT AS open_calls,
    sum(s.bytes)::BIGINT AS bytes, coalesce(sum(d.records), 0)::BIGINT AS records_last_day,
    coalesce(sum(d.bytes), 0)::BIGINT AS bytes_last_day
FROM main.streams s LEFT JOIN days d USING (stream_id, partition) LEFT JOIN calls c USING (stream_id)
GROUP BY s.agent_id;

CREATE VIEW main.coverage AS
SELECT p.partition, p.next_offset, p.end_offset, greatest(p.end_offset - p.next_offset, 0) AS lag_events,
    CASE WHEN p.end_offset > p.next_offset THEN greatest(epoch(p.applied_at - p.last_at), 0) ELSE 0 END AS lag_seconds,
    p.last_at, p.applied_at, f.published_at, epoch(now()) - epoch(coalesce(f.published_at, p.applied_at)) AS age_seconds
FROM projection.progress p LEFT JOIN projection.publication f ON f.partition IS NULL OR f.partition = p.partition;
"""

VIEWS = _VIEWS + MACROS
"""All but `events` and `streams`, which are tables."""

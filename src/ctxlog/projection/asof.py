"""What analysts ask of the past, and of forks: macros over `events`, beside the views. `docs/reference/views.md` shows them.

    stream, version -> lineage (the stream, its parent at the fork, the parent's parent, ...), each level checked
                    -> what took effect, in the order of the lineage -> messages, facts, tool calls

Column `anomaly` says what took effect in a stream by itself, and for a stream that is no fork that is all there is to know. For a
fork it was decided without the parent, and is decided here again where the parent may have a say: for ids that stand on more
than one level, and for events that are about something of the parent's.

Where the answer cannot be known (the parent is not what the fork says, or is not projected that far) the macros raise. An empty
answer would look like one.
"""

from __future__ import annotations

from ctxlog.replay.replayer import LINEAGE_MAX

_LINEAGE = """
CREATE MACRO projection.lineage(asked_stream, asked_version) AS TABLE
WITH RECURSIVE levels AS (
    SELECT 0 AS depth, asked_stream::VARCHAR AS stream_id, asked_version::BIGINT AS version, NULL::VARCHAR AS said_head,
        [asked_stream::VARCHAR] AS path, false AS cyclic
    UNION ALL
    SELECT l.depth + 1, s.parent_stream_id, s.parent_version, s.parent_chain_head, list_append(l.path, s.parent_stream_id),
        s.parent_version > 0 AND list_contains(l.path, s.parent_stream_id)
    FROM levels l JOIN main.streams s ON s.stream_id = l.stream_id
    WHERE s.parent_stream_id IS NOT NULL AND l.version > 0 AND NOT l.cyclic AND l.depth <= LEVELS_MAX
),
judged AS (
    SELECT l.depth, l.stream_id, l.version, CASE
        WHEN l.version IS NULL OR l.version < 0 THEN 'a stream has no version ' || coalesce(l.version::VARCHAR, 'NULL')
        WHEN l.cyclic THEN 'the forks form a cycle at stream ' || l.stream_id
        WHEN l.depth > LEVELS_MAX THEN 'the forks go deeper than LEVELS_MAX levels'
        WHEN l.version > coalesce(s.version, 0) AND l.depth = 0 THEN 'stream ' || l.stream_id || ' is at version '
            || coalesce(s.version, 0) || ' in these views; there is no version ' || l.version
        WHEN l.version > coalesce(s.version, 0) THEN 'the stream that a fork goes on from, ' || l.stream_id || ', is at version '
            || coalesce(s.version, 0) || ' in these views, before version ' || l.version || ' where the fork begins'
        WHEN l.said_head <> CASE WHEN l.version = 0 THEN sha256('ctxlog:chain:1' || l.stream_id) ELSE e.chain_head END
            THEN 'the stream that a fork goes on from, ' || l.stream_id || ', has another chain head at version ' || l.version
            || ' than the fork says'
        END AS problem
    FROM levels l LEFT JOIN main.streams s ON s.stream_id = l.stream_id
    LEFT JOIN main.events e ON e.stream_id = l.stream_id AND e.version = l.version AND e.outcome = 'accepted'
)
SELECT depth, stream_id, CASE WHEN problem IS NOT NULL THEN error(problem)::BIGINT ELSE version END AS version, problem
FROM judged;
""".replace("LEVELS_MAX", str(LINEAGE_MAX))
"""One row a level, the stream itself at depth 0. Whoever uses a version of a lineage that is not whole gets the error."""

_EFFECTS = """
CREATE MACRO projection.effects(asked_stream, asked_version) AS TABLE
WITH RECURSIVE told AS MATERIALIZED (
    SELECT l.depth, row_number() OVER (ORDER BY l.depth DESC, e.version) AS place, e.*
    FROM projection.lineage(asked_stream, asked_version) l
    JOIN main.events e ON e.stream_id = l.stream_id AND e.version <= l.version
    WHERE e.outcome = 'accepted' AND e.type IN ('ctxlog.MessageAppended', 'ctxlog.MessageRedacted', 'ctxlog.ToolCalled',
        'ctxlog.ToolReturned') AND (e.anomaly IS NULL OR e.anomaly IN ('in_parent', 'message_exists', 'message_redacted',
        'call_exists', 'call_settled'))
),
ids AS MATERIALIZED (
    SELECT event_id, count(*) AS times, min(place) FILTER (type = 'ctxlog.MessageAppended') AS appended,
        bool_or(type = 'ctxlog.ToolReturned') AS is_result
    FROM told WHERE type IN ('ctxlog.MessageAppended', 'ctxlog.ToolReturned') GROUP BY event_id
),
entangled AS MATERIALIZED (
    SELECT t.call_id FROM told t
    LEFT JOIN ids own ON t.type = 'ctxlog.ToolReturned' AND own.event_id = t.event_id
    LEFT JOIN ids asking ON t.type = 'ctxlog.ToolCalled' AND asking.event_id = t.message_id
    WHERE t.type IN ('ctxlog.ToolCalled', 'ctxlog.ToolReturned')
    GROUP BY t.call_id
    HAVING max(t.depth) > min(t.depth) OR bool_or(coalesce(t.anomaly = 'in_parent', false))
        OR bool_or(coalesce(own.times > 1, false)) OR bool_or(coalesce(asking.is_result, false))
),
plain AS MATERIALIZED (
    SELECT t.* FROM told t ANTI JOIN entangled USING (call_id)
    WHERE t.type IN ('ctxlog.ToolCalled', 'ctxlog.ToolReturned') AND t.anomaly IS NULL
),
answered AS (SELECT event_id, min(place) AS place FROM plain WHERE type = 'ctxlog.ToolReturned' GROUP BY event_id),
steps AS MATERIALIZED (
    SELECT t.place, t.type = 'ctxlog.ToolCalled' AS calls, t.call_id, t.event_id, t.message_id, t.name, t.arguments,
        t.idempotency_key, t.failed, row_number() OVER (ORDER BY t.place) AS step,
        t.message_id IS NULL OR least(asking.appended, answer.place) < t.place AS is_asked,
        coalesce(own.appended < t.place, false) AS is_taken
    FROM told t SEMI JOIN entangled USING (call_id)
    LEFT JOIN ids own ON own.event_id = t.event_id
    LEFT JOIN ids asking ON asking.event_id = t.message_id LEFT JOIN answered answer ON answer.event_id = t.message_id
    WHERE t.type IN ('ctxlog.ToolCalled', 'ctxlog.ToolReturned')
),
fold AS (
    SELECT 0::BIGINT AS step, 0::BIGINT AS place, false AS effective, []::VARCHAR[] AS results,
        MAP {}::MAP(VARCHAR, STRUCT(state VARCHAR, name VARCHAR, arguments VARCHAR, idempotency_key VARCHAR)) AS calls
    UNION ALL
    SELECT step, place, effective, CASE WHEN effective AND NOT is_call THEN list_append(results, event_id) ELSE results END,
        CASE WHEN effective THEN map_concat(calls, MAP {call_id: {
            'state': CASE WHEN is_call THEN 'open' WHEN failed THEN 'failed' ELSE 'returned' END,
            'name': CASE WHEN is_call THEN name ELSE call.name END,
            'arguments': CASE WHEN is_call THEN arguments ELSE call.arguments END,
            'idempotency_key': CASE WHEN is_call THEN idempotency_key ELSE call.idempotency_key END
        }}) ELSE calls END
    FROM (
        SELECT *, coalesce(CASE
            WHEN is_call THEN (is_asked OR list_contains(results, message_id)) AND (call IS NULL OR (call.state <> 'returned'
                AND call.idempotency_key = idempotency_key AND call.name = name AND call.arguments = arguments))
            ELSE call.state = 'open' AND NOT is_taken AND NOT list_contains(results, event_id)
            END, false) AS effective
        FROM (
            SELECT s.* EXCLUDE (calls), s.calls AS is_call, f.results, f.calls, f.calls[s.call_id] AS call
            FROM fold f JOIN steps s ON s.step = f.step + 1
        )
    )
),
settled AS MATERIALIZED (
    SELECT * FROM plain UNION ALL SELECT t.* FROM told t SEMI JOIN (SELECT place FROM fold WHERE effective) USING (place)
),
made AS MATERIALIZED (
    SELECT * FROM (FROM told WHERE type = 'ctxlog.MessageAppended' UNION ALL FROM settled WHERE type = 'ctxlog.ToolReturned')
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY place) = 1
),
redacted AS (
    SELECT m.event_id, arg_min(t.event_id, t.place) AS redacted_by
    FROM made m JOIN told t ON t.type = 'ctxlog.MessageRedacted' AND t.message_id = m.event_id AND t.place > m.place
    GROUP BY m.event_id
)
SELECT e.*, r.redacted_by
FROM (FROM made UNION ALL FROM settled WHERE type = 'ctxlog.ToolCalled') e
LEFT JOIN redacted r ON r.event_id = e.event_id AND e.type <> 'ctxlog.ToolCalled';
"""
"""The events that messages and tool calls of a stream come from, those of its ancestors included: each with its place in the
order of the lineage and, of a message, by what it was redacted.

A call is entangled where what a fork's own rows say of it may be wrong: it stands on several levels, is about the parent's, a
result of it has an id that comes twice, or it was asked for by a result. Those calls are gone through again, one event after the
other (`fold`); there are few.
"""


def _table(name: str, parameters: str, columns: dict[str, str], rest: str) -> str:
    """A macro whose answer has these columns, and which raises where the lineage is not whole, whatever is asked of the answer.

    The second half has no rows. It raises by any column that it is filtered by, so that no optimizer can leave it out.
    """
    stream, version = parameters.split(", ")[:2]
    listed = ", ".join(f"{text} AS {column}" for column, text in columns.items())
    nothing = ", ".join(f"error(problem) AS {column}" for column in columns)
    return (
        f"CREATE MACRO main.{name}({parameters}) AS TABLE\n{rest.format(columns=listed)}\nUNION ALL BY NAME\n"
        f"SELECT {nothing} FROM projection.lineage({stream}, {version})\n"
        "WHERE CASE WHEN problem IS NULL THEN false ELSE error(problem)::BOOLEAN END;\n"
    )


_IS_RESULT = "e.type = 'ctxlog.ToolReturned'"

_MESSAGES = _table(
    "messages_at",
    "stream, at_version",
    {
        "stream_id": "e.stream_id",
        "position": "row_number() OVER (ORDER BY e.place) - 1",
        "message_id": "e.event_id",
        "role": f"CASE WHEN {_IS_RESULT} THEN 'tool' ELSE e.role END",
        "content": "CASE WHEN e.redacted_by IS NULL THEN e.content END",
        "parts": "CASE WHEN e.redacted_by IS NULL THEN e.parts END",
        "name": "e.name",
        "tool_calls": "coalesce(asked.tool_calls, [])",
        "tool_call_id": f"CASE WHEN {_IS_RESULT} THEN e.call_id ELSE e.tool_call_id END",
        "scope": "e.scope",
        "version": "e.version",
        "recorded_at": "e.decided_at",
        "occurred_at": "e.occurred_at",
        "actor": "e.actor",
        "agent_id": "e.agent_id",
        "redacted_by": "e.redacted_by",
    },
    """WITH effects AS MATERIALIZED (FROM projection.effects(stream, at_version)),
    begun AS (
        SELECT call_id, message_id, place FROM effects WHERE type = 'ctxlog.ToolCalled'
        QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY place) = 1
    ),
    asked AS (
        SELECT message_id, list(call_id ORDER BY place) AS tool_calls FROM begun WHERE message_id IS NOT NULL GROUP BY message_id
    )
SELECT {columns}
FROM effects e LEFT JOIN asked ON asked.message_id = e.event_id
WHERE e.type <> 'ctxlog.ToolCalled'""",
)

_FACTS = _table(
    "facts_at",
    "stream, at_version",
    {
        "stream_id": "e.stream_id",
        "key": "e.key",
        "value": "e.value",
        "scope": "e.scope",
        "valid_from": "e.valid_from",
        "valid_to": "e.valid_to",
        "expires_at": "e.expires_at",
        "version": "e.version",
        "recorded_at": "e.decided_at",
        "occurred_at": "e.occurred_at",
        "actor": "e.actor",
        "agent_id": "e.agent_id",
        "event_id": "e.event_id",
    },
    """SELECT {columns}
FROM (
    SELECT e.* FROM projection.lineage(stream, at_version) l
    JOIN main.events e ON e.stream_id = l.stream_id AND e.version <= l.version
    WHERE e.outcome = 'accepted' AND e.type IN ('ctxlog.FactSet', 'ctxlog.FactRemoved')
        AND (e.anomaly IS NULL OR e.anomaly = 'in_parent')
    QUALIFY row_number() OVER (PARTITION BY e.key ORDER BY l.depth, e.version DESC) = 1
) e WHERE e.type = 'ctxlog.FactSet'""",
)

_VALID_FACTS = """
CREATE MACRO main.facts_valid_at(stream, at_version, instant) AS TABLE
FROM main.facts_at(stream, at_version)
WHERE (valid_from IS NULL OR epoch_us(valid_from) <= epoch_us(instant))
    AND (valid_to IS NULL OR epoch_us(valid_to) > epoch_us(instant))
    AND (expires_at IS NULL OR epoch_us(expires_at) > epoch_us(instant));
"""

_TOOL_CALLS = _table(
    "tool_calls_at",
    "stream, at_version",
    {
        "stream_id": "e.stream_id",
        "call_id": "e.call_id",
        "name": "e.name",
        "arguments": "e.arguments",
        "state": "CASE WHEN NOT c.answered THEN 'open' WHEN c.latest.failed THEN 'failed' ELSE 'returned' END",
        "result": "CASE WHEN c.answered AND c.latest.redacted_by IS NULL THEN c.latest.content END",
        "result_parts": "CASE WHEN c.answered AND c.latest.redacted_by IS NULL THEN c.latest.parts END",
        "result_id": "CASE WHEN c.answered THEN c.latest.event_id END",
        "message_id": "e.message_id",
        "source_id": "e.source_id",
        "idempotency_key": "e.idempotency_key",
        "lease_event_id": "CASE WHEN NOT c.answered AND c.latest.lease_expires_at IS NOT NULL THEN c.latest.event_id END",
        "lease_expires_at": "CASE WHEN NOT c.answered THEN c.latest.lease_expires_at END",
        "scope": "e.scope",
        "attempts": "c.attempts",
        "first_called_at": "e.decided_at",
        "called_at": "c.called_at",
        "returned_at": "CASE WHEN c.answered THEN c.latest.decided_at END",
        "duration_ms": "CASE WHEN c.answered THEN date_sub('millisecond', c.called_at, c.latest.decided_at) END",
        "version": "e.version",
        "changed_version": "c.latest.version",
        "actor": "e.actor",
        "agent_id": "e.agent_id",
    },
    """WITH effects AS MATERIALIZED (FROM projection.effects(stream, at_version) WHERE type <> 'ctxlog.MessageAppended'),
    calls AS (
        SELECT call_id, min(place) AS place, count(*) FILTER (type = 'ctxlog.ToolCalled') AS attempts,
            arg_max_null(decided_at, place) FILTER (type = 'ctxlog.ToolCalled') AS called_at,
            arg_max(type, place) = 'ctxlog.ToolReturned' AS answered, max_by(effects, place) AS latest
        FROM effects GROUP BY call_id
    )
SELECT {columns}
FROM calls c JOIN effects e USING (place)""",
)

_VERSION = """
CREATE MACRO main.version_at(stream, instant) AS (
    SELECT coalesce(max(e.version), 0)
    FROM main.streams s JOIN main.events e ON e.stream_id = s.stream_id AND e.partition = s.partition
    WHERE s.stream_id = stream AND e.outcome = 'accepted' AND e.decided_offset < coalesce((
        SELECT min(late.record_offset) FROM main.streams own
        JOIN main.events late ON late.stream_id = own.stream_id AND late.partition = own.partition
        WHERE own.stream_id = stream AND epoch_us(late.recorded_at) > epoch_us(instant)
    ), 9223372036854775807)
);
"""

MACROS = _LINEAGE + _EFFECTS + _MESSAGES + _FACTS + _VALID_FACTS + _TOOL_CALLS + _VERSION

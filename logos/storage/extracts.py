"""Statements that read stretches of the log and the scheduler's journal for analysis. Parameters by name.

Literal SQL only; who runs it and what becomes of the rows is not known here.
"""

# :since and :until are times, :most bounds the rows, the newest of which are taken.
REQUESTS = """
SELECT * FROM (
    SELECT l.request_id, l.result_status, coalesce(m.name, 'none') AS model,
           coalesce(k.name, 'key ' || l.api_key_id) AS key,
           extract(epoch FROM l.timestamp_request)::double precision AS at_s,
           extract(epoch FROM l.time_at_first_token)::double precision AS first_token_at_s,
           l.queue_wait_ms, l.predicted_ttft_ms, l.slo_ttft_ms
    FROM log_entry AS l LEFT JOIN models AS m ON m.id = l.model_id LEFT JOIN api_keys AS k ON k.id = l.api_key_id
    WHERE l.timestamp_request BETWEEN :since AND :until AND l.result_status IS NOT NULL
    ORDER BY l.timestamp_request DESC LIMIT :most
) AS newest ORDER BY at_s, request_id
"""

# What moved engines, from the start of the scheduler that ran at :since, so that engines which were awake by then are
# known. Of more rows than :most the newest are taken, after those that say who is who (starts, nodes, loads). The
# journal's clock is the scheduler's own; no entry can have been recorded before it happened, so the smallest difference
# within a start is, but for the quickest writing, that between the two clocks.
JOURNAL = """
WITH starts AS (
    SELECT epoch, min(extract(epoch FROM recorded_at)::double precision - at) AS offset_s
    FROM scheduling_journal
    WHERE recorded_at <= :until AND epoch >= coalesce(
        (SELECT max(epoch) FROM scheduling_journal WHERE sequence = 0 AND recorded_at <= :since), 0)
    GROUP BY epoch
)
SELECT epoch, sequence, at_s, kind, policy, event, commands FROM (
    SELECT j.epoch, j.sequence, j.at + starts.offset_s AS at_s, j.kind,
           j.event #>> '{opening,settings,policy}' AS policy,
           CASE WHEN j.kind IN ('EngineChanged', 'NodeSeen', 'NodeLost') THEN j.event::text END AS event,
           (SELECT json_agg(c.command)::text FROM jsonb_array_elements(j.commands) AS c(command)
            WHERE c.command ->> 0 IN ('LoadEngine', 'WakeEngine', 'SleepEngine', 'StopEngine')) AS commands,
           j.kind IN ('snapshot', 'NodeSeen') OR coalesce(j.commands @> '[["LoadEngine"]]', false) AS introduces
    FROM scheduling_journal AS j JOIN starts USING (epoch)
    WHERE j.recorded_at <= :until AND (
        j.kind IN ('snapshot', 'EngineChanged', 'NodeSeen', 'NodeLost')
        OR j.commands @> '[["LoadEngine"]]' OR j.commands @> '[["WakeEngine"]]'
        OR j.commands @> '[["SleepEngine"]]' OR j.commands @> '[["StopEngine"]]')
    ORDER BY introduces DESC, j.epoch DESC, j.sequence DESC LIMIT :most
) AS newest ORDER BY epoch, sequence
"""

ENDPOINTS = """
SELECT e.id AS endpoint_id, m.name AS model
FROM model_provider AS e JOIN models AS m ON m.id = e.model_id ORDER BY e.id
"""

NEWEST_REQUEST = "SELECT max(timestamp_request) FROM log_entry WHERE result_status IS NOT NULL"

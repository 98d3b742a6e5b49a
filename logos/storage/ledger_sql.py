"""The ledger's statements, as literal SQL: how a copied batch becomes log rows, attempts, usage and balances.

Read by ledger_writer alone. The staging columns stand in the order in which ledger_writer builds its rows.
"""

from __future__ import annotations

# Name and type; "time" is Unix seconds here and a timestamptz in the log.
STAGING_COLUMNS: tuple[tuple[str, str], ...] = (
    ("request_id", "text"),
    ("client_request_id", "text"),
    ("gateway_id", "text"),
    ("route", "text"),
    ("mode", "text"),
    ("timestamp_request", "time"),
    ("api_key_id", "bigint"),
    ("team_id", "bigint"),
    ("user_id", "bigint"),
    ("policy_id", "bigint"),
    ("privacy_level", "text"),
    ("input_payload", "text"),
    ("headers", "jsonb"),
    ("client_ip", "text"),
    ("classification_statistics", "jsonb"),
    ("prompt_tokens_estimated", "integer"),
    ("initial_priority", "smallint"),
    ("slo_ttft_ms", "integer"),
    ("slo_total_ms", "integer"),
    ("provider_id", "bigint"),
    ("model_id", "bigint"),
    ("endpoint_id", "bigint"),
    ("engine_id", "text"),
    ("timestamp_forwarding", "time"),
    ("time_at_first_token", "time"),
    ("timestamp_response", "time"),
    ("response_payload", "text"),
    ("priority_when_scheduled", "smallint"),
    ("queue_depth_at_enqueue", "integer"),
    ("queue_depth_at_schedule", "integer"),
    ("queue_wait_ms", "double precision"),
    ("predicted_ttft_ms", "double precision"),
    ("was_cold_start", "boolean"),
    ("load_duration_ms", "double precision"),
    ("overhead_ms", "double precision"),
    ("attempts", "integer"),
    ("hedge_winner", "text"),
    ("result_status", "text"),
    ("http_status", "integer"),
    ("error_message", "text"),
    ("usage_source", "text"),
    ("cost_micro_cents", "bigint"),
    ("cost_currency", "text"),
    ("tries", "jsonb"),  # one object per attempt
    ("usage", "jsonb"),  # token type -> tokens
)

_LOGGED = tuple((name, kind) for name, kind in STAGING_COLUMNS if name not in {"tries", "usage"})
_NAMES = ", ".join(name for name, _ in _LOGGED)
_VALUES = ", ".join(f"to_timestamp({name})" if kind == "time" else name for name, kind in _LOGGED)
_REPLACED = ", ".join(f"{name} = excluded.{name}" for name, _ in _LOGGED if name != "request_id")

MAKE_STAGING = "CREATE TEMPORARY TABLE staging ({}) ON COMMIT DELETE ROWS".format(
    ", ".join(f"{name} {'double precision' if kind == 'time' else kind}" for name, kind in STAGING_COLUMNS)
)

COPY_TO_STAGING = "COPY staging FROM STDIN"

ADD_USAGE_TYPES = "INSERT INTO token_types (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"

# Rows and balances are locked in the order of their keys, so that two writers cannot wait for each other in a circle.
# `taken` has the rows that this statement inserted or closed; a row that has its end is not among them. One that was
# closed without (CLOSE_UNHEARD_OF) has moved no balance and has no attempts, so its own end still counts, once.
TAKE_OVER = f"""
WITH taken AS (
    INSERT INTO log_entry ({_NAMES})
    SELECT {_VALUES} FROM staging ORDER BY request_id
    ON CONFLICT (request_id) DO UPDATE SET {_REPLACED}
        WHERE log_entry.timestamp_response IS NULL AND excluded.result_status IS NOT NULL
    RETURNING id, request_id, api_key_id, team_id, result_status, cost_micro_cents, cost_currency
), ended AS (
    SELECT * FROM taken WHERE result_status IS NOT NULL
), tried AS (
    INSERT INTO attempts (log_entry_id, number, model_id, provider_id, endpoint_id, engine_id,
                          started_at, first_byte_at, ended_at, outcome, http_status, error_message,
                          is_hedge, house_cost_micro_cents, house_cost_currency)
    SELECT ended.id, t.number, t.model_id, t.provider_id, t.endpoint_id, t.engine_id,
           to_timestamp(t.started_at), to_timestamp(t.first_byte_at), to_timestamp(t.ended_at),
           t.outcome, t.http_status, t.error_message,
           t.is_hedge, (t.house_cost->>'micro_cents')::bigint, t.house_cost->>'currency'
    FROM ended JOIN staging USING (request_id)
    CROSS JOIN LATERAL jsonb_to_recordset(staging.tries) AS t(
        number integer, model_id bigint, provider_id bigint, endpoint_id bigint, engine_id text,
        started_at double precision, first_byte_at double precision, ended_at double precision,
        outcome text, http_status integer, error_message text, is_hedge boolean, house_cost jsonb)
), used AS (
    INSERT INTO usage_tokens (log_entry_id, token_type, tokens)
    SELECT ended.id, u.key, u.value::bigint
    FROM ended JOIN staging USING (request_id) CROSS JOIN LATERAL jsonb_each_text(staging.usage) AS u
)
INSERT INTO balances AS b (scope, scope_id, currency, micro_cents, requests)
SELECT 'key', api_key_id, cost_currency, sum(cost_micro_cents), count(*)
FROM ended WHERE cost_currency IS NOT NULL GROUP BY api_key_id, cost_currency
UNION ALL
SELECT 'team', team_id, cost_currency, sum(cost_micro_cents), count(*)
FROM ended WHERE cost_currency IS NOT NULL AND team_id IS NOT NULL GROUP BY team_id, cost_currency
ORDER BY 1, 2, 3
ON CONFLICT (scope, scope_id, currency) DO UPDATE
    SET micro_cents = b.micro_cents + excluded.micro_cents, requests = b.requests + excluded.requests,
        updated_at = now()
"""  # noqa: S608 (made of the column names above)

# Both by the database's clock. Rows that somebody is just closing are passed over.
_UNHEARD_OF = "result_status IS NULL AND timestamp_request < now() - make_interval(secs => %s)"

GATEWAYS_UNHEARD_OF = f"SELECT DISTINCT coalesce(gateway_id, '') FROM log_entry WHERE {_UNHEARD_OF}"  # noqa: S608

# Free, and without a time of its end: the mark by which TAKE_OVER knows it.
CLOSE_UNHEARD_OF = f"""
WITH unheard_of AS (
    SELECT id FROM log_entry WHERE {_UNHEARD_OF} AND coalesce(gateway_id, '') = %s FOR UPDATE SKIP LOCKED
)
UPDATE log_entry SET result_status = 'interrupted', http_status = 0, cost_micro_cents = 0,
    error_message = 'nothing was heard of this request since its gateway died'
FROM unheard_of WHERE log_entry.id = unheard_of.id
RETURNING log_entry.id
"""  # noqa: S608 (made of the condition above)

WRITE_JOURNAL = """
INSERT INTO scheduling_journal (epoch, sequence, at, kind, event, commands)
SELECT %s, * FROM unnest(%s::bigint[], %s::double precision[], %s::text[], %s::jsonb[], %s::jsonb[])
ON CONFLICT (epoch, sequence) DO NOTHING
"""

# A start that has been followed by another one writes in vain.
WRITE_LEARNED = """
INSERT INTO scheduler_learned AS kept (id, epoch, version, learned) VALUES (1, %s, %s, %s)
ON CONFLICT (id) DO UPDATE
    SET epoch = excluded.epoch, version = excluded.version, learned = excluded.learned, saved_at = now()
    WHERE kept.epoch <= excluded.epoch
"""

LAST_EPOCH = """
SELECT greatest((SELECT max(epoch) FROM scheduler_learned), (SELECT max(epoch) FROM scheduling_journal))
"""

READ_LEARNED = "SELECT version, learned::text FROM scheduler_learned WHERE id = 1"

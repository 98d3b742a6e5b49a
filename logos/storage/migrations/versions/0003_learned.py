"""What the scheduler has learned, one row for the platform; and the secret salt of the fingerprints of prompts.

The learned row is replaced as a whole, every half minute. `gen_random_uuid` is as random as Postgres can be.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE scheduler_learned (
        id SMALLINT NOT NULL,
        epoch BIGINT NOT NULL,
        version INTEGER NOT NULL,
        learned JSONB NOT NULL,
        saved_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_scheduler_learned PRIMARY KEY (id)
    )
    """,
    """
    INSERT INTO settings (key, value)
    VALUES ('fingerprint_salt', to_jsonb(gen_random_uuid()::text || gen_random_uuid()::text))
    ON CONFLICT (key) DO NOTHING
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

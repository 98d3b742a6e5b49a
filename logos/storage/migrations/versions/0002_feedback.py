"""Votes on requests, which choosing by meaning learns from."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FEEDBACK = """
CREATE TABLE feedback (
    request_id TEXT NOT NULL,
    api_key_id BIGINT NOT NULL,
    model_id BIGINT NOT NULL,
    good BOOLEAN NOT NULL,
    embedding TEXT,
    vector BYTEA,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_feedback PRIMARY KEY (request_id, api_key_id)
)
"""


def upgrade() -> None:
    op.execute(FEEDBACK)

"""Hedged requests: which place served them, and what the house bears for the answer that was given up.

Columns without a default, so the tables are not rewritten.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE log_entry ADD COLUMN hedge_winner TEXT",
    "ALTER TABLE attempts ADD COLUMN is_hedge BOOLEAN",
    "ALTER TABLE attempts ADD COLUMN house_cost_micro_cents BIGINT",
    "ALTER TABLE attempts ADD COLUMN house_cost_currency TEXT",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

"""Keys: how many requests and tokens a minute, how many requests at once.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_LIMITS = ("requests_per_minute", "tokens_per_minute", "streams")


def upgrade() -> None:
    with op.batch_alter_table("keys") as table:
        for name in _LIMITS:
            table.add_column(sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("keys") as table:
        for name in reversed(_LIMITS):
            table.drop_column(name)

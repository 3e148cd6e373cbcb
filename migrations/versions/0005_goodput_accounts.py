"""Goodput: each rank-second of a run in one account.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ACCOUNTS = (
    "checkpoint_seconds", "restart_seconds", "stalled_seconds", "starting_seconds", "lost_seconds",
)  # fmt: skip


def upgrade() -> None:
    with op.batch_alter_table("runs") as table:
        for name in ACCOUNTS:
            table.add_column(sa.Column(name, sa.Double(), nullable=False, server_default="0"))
        table.add_column(sa.Column("unsaved_seconds", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("runs") as table:
        for name in (*ACCOUNTS, "unsaved_seconds"):
            table.drop_column(name)

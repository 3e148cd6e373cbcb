"""Clusters that pools make for one run each, whose pods have an image of the job's choice.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pools") as table:
        table.add_column(sa.Column("of_pool", sa.String(), nullable=True))
        table.add_column(sa.Column("owner_id", sa.String(), nullable=True))
        table.add_column(sa.Column("owner_epoch", sa.Integer(), nullable=True))
        table.add_column(sa.Column("image", sa.String(), server_default="", nullable=False))
        table.add_column(
            sa.Column("ending", sa.Boolean(), server_default=sa.false(), nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("pools") as table:
        for name in ("ending", "image", "owner_epoch", "owner_id", "of_pool"):
            table.drop_column(name)

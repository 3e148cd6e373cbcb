"""Elastic trainings: smaller layouts, and runs on fewer ranks than their job's gang.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("smaller_layouts", sa.JSON(), nullable=True))
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("full_ranks", sa.Integer(), nullable=True))
        table.add_column(sa.Column("fits_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.drop_column("fits_since")
        table.drop_column("full_ranks")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("smaller_layouts")

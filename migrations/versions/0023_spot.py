"""The group of its pool that a node belongs to: it tells whether it is a spot machine.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.add_column(sa.Column("pool_group", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.drop_column("pool_group")

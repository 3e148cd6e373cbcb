"""Isolated projects, and clusters and pools that belong to one.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("projects") as table:
        table.add_column(
            sa.Column("isolation", sa.String(), server_default="shared", nullable=False)
        )
    for name in ("clusters", "pools"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("project", sa.String(), nullable=True))


def downgrade() -> None:
    for name in ("pools", "clusters"):
        with op.batch_alter_table(name) as table:
            table.drop_column("project")
    with op.batch_alter_table("projects") as table:
        table.drop_column("isolation")

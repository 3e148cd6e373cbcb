"""Versions of machines, and machines that their versions keep out of a cluster.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("versions", sa.JSON(), nullable=True))
    op.add_column("clusters", sa.Column("refused_joins", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("clusters", "refused_joins")
    op.drop_column("nodes", "versions")

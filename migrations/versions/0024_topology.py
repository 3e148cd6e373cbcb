"""Where Kubernetes says that a pool's machine is, from the widest domain to the narrowest.

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.add_column(sa.Column("topology", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.drop_column("topology")

"""How many runs were ever created on a cluster; lists of all jobs by index.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("clusters") as table:
        table.add_column(sa.Column("placed", sa.BigInteger(), server_default="0", nullable=False))
    op.drop_index("ix_jobs_array_id", table_name="jobs")
    op.create_index("ix_jobs_array_id_ordinal_id", "jobs", ["array_id", "ordinal", "id"])
    op.create_index(
        "ix_jobs_phase_array_id_ordinal_id", "jobs", ["phase", "array_id", "ordinal", "id"]
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_phase_array_id_ordinal_id", table_name="jobs")
    op.drop_index("ix_jobs_array_id_ordinal_id", table_name="jobs")
    op.create_index("ix_jobs_array_id", "jobs", ["array_id"])
    with op.batch_alter_table("clusters") as table:
        table.drop_column("placed")

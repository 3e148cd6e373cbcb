"""job graph: conditions of edges, arrays"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job_edges") as batch_op:
        batch_op.add_column(
            sa.Column("condition", sa.String(), server_default="success", nullable=False)
        )
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("array_size", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("array_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("array_index", sa.Integer(), nullable=True))
        batch_op.add_column(
            sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.create_index(batch_op.f("ix_jobs_array_id"), ["array_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_array_id"))
        batch_op.drop_column("held")
        batch_op.drop_column("array_index")
        batch_op.drop_column("array_id")
        batch_op.drop_column("array_size")
    with op.batch_alter_table("job_edges") as batch_op:
        batch_op.drop_column("condition")

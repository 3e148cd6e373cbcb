"""keys of one cluster, refused claims, generations of restored backups"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orphans",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.name"], name=op.f("fk_orphans_cluster")),
        sa.PrimaryKeyConstraint("run_id", "epoch", name=op.f("pk_orphans")),
    )
    op.create_index(op.f("ix_orphans_cluster"), "orphans", ["cluster"])
    with op.batch_alter_table("keys") as table:
        table.add_column(sa.Column("cluster", sa.String(), nullable=True))
    with op.batch_alter_table("clusters") as table:
        table.add_column(sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("refused", sa.JSON(), nullable=True))
        table.add_column(sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.drop_column("generation")
        table.drop_column("refused")
    with op.batch_alter_table("clusters") as table:
        table.drop_column("generation")
    with op.batch_alter_table("keys") as table:
        table.drop_column("cluster")
    op.drop_index(op.f("ix_orphans_cluster"), table_name="orphans")
    op.drop_table("orphans")

"""faults: confirmed deaths, back-off, log policies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "nodes", sa.Column("cordon_reason", sa.String(), nullable=False, server_default="")
    )
    op.add_column("nodes", sa.Column("confirmed_dead", sa.JSON(), nullable=True))
    op.add_column("clusters", sa.Column("retired_agents", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("restart_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("log_matches", sa.JSON(), nullable=True))
    op.create_table(
        "node_faults",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("owner_name", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cleared_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_node_faults_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_faults")),
        sa.UniqueConstraint(
            "run_id", "node_id", "policy", name=op.f("uq_node_faults_run_id_node_id_policy")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_node_faults_cluster_host_at"), "node_faults", ["cluster", "host", "at"]
    )
    op.create_index(op.f("ix_node_faults_owner_id"), "node_faults", ["owner_id"])


def downgrade() -> None:
    op.drop_table("node_faults")
    op.drop_column("runs", "log_matches")
    op.drop_column("jobs", "restart_at")
    op.drop_column("clusters", "retired_agents")
    op.drop_column("nodes", "confirmed_dead")
    op.drop_column("nodes", "cordon_reason")

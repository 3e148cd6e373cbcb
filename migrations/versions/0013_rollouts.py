"""Rollouts of services, what gateways observe, and since when a replica is unhealthy.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("services") as table:
        table.add_column(sa.Column("rollout", sa.JSON(), nullable=True))
        table.add_column(sa.Column("rollout_wish", sa.JSON(), nullable=True))
    with op.batch_alter_table("service_revisions") as table:
        table.add_column(sa.Column("of_revision", sa.Integer(), nullable=True))
        table.add_column(sa.Column("actor", sa.String(), server_default="", nullable=False))
        table.add_column(sa.Column("note", sa.String(), server_default="", nullable=False))
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("unhealthy_since", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "observations",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True,
            nullable=False,
        ),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("service_id", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("ttft", sa.JSON(), nullable=False),
        sa.Column("ttft_seconds", sa.Double(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("tokens_in", sa.Integer(), nullable=False),
        sa.Column("tokens_out", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name=op.f("fk_observations_service_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_observations")),
        sa.UniqueConstraint(
            "gateway", "seq", "service_id", "revision",
            name=op.f("uq_observations_gateway_seq_service_id_revision"),
        ),
    )  # fmt: skip
    op.create_index(op.f("ix_observations_at"), "observations", ["at"])
    op.create_index(
        op.f("ix_observations_service_id_revision_at"),
        "observations",
        ["service_id", "revision", "at"],
    )


def downgrade() -> None:
    op.drop_table("observations")
    with op.batch_alter_table("runs") as table:
        table.drop_column("unhealthy_since")
    with op.batch_alter_table("service_revisions") as table:
        table.drop_column("note")
        table.drop_column("actor")
        table.drop_column("of_revision")
    with op.batch_alter_table("services") as table:
        table.drop_column("rollout_wish")
        table.drop_column("rollout")

"""Logs in files: an index of them, and what is kept of each owner's log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_files",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("first_transaction", sa.BigInteger(), nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_transaction", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), server_default="stored", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_files")),
        sa.UniqueConstraint(
            "owner_id",
            "first_transaction",
            "first_id",
            name=op.f("uq_log_files_owner_id_first_transaction_first_id"),
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("log_files", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_log_files_owner_id_last_transaction_last_id"),
            ["owner_id", "last_transaction", "last_id"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_log_files_state"), ["state"], unique=False)

    op.create_table(
        "owner_logs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_type", sa.String(), nullable=False),
        sa.Column("owner_name", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("hot_chunks", sa.BigInteger(), nullable=False),
        sa.Column("hot_size", sa.BigInteger(), nullable=False),
        sa.Column("stored_lines", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pruned_lines", sa.BigInteger(), nullable=False),
        sa.Column("pruned_until", sa.Double(), nullable=True),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_id", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owner_logs")),
    )
    with op.batch_alter_table("owner_logs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_owner_logs_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_owner_logs_project"), ["project"], unique=False)

    with op.batch_alter_table("log_chunks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("size", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.drop_index(batch_op.f("ix_log_chunks_owner_id_id"))
        batch_op.create_index(
            batch_op.f("ix_log_chunks_owner_id_transaction_id_id"),
            ["owner_id", "transaction_id", "id"],
            unique=False,
        )
    # What older versions wrote moves like the rest: due at once, sizes as near as JSON tells.
    op.execute("UPDATE log_chunks SET size = length(CAST(lines AS TEXT))")
    op.execute(
        "INSERT INTO owner_logs (id, owner_type, owner_name, project, hot_chunks, hot_size, "
        "stored_lines, stored_bytes, written_at, pruned_lines, due_at) "
        "SELECT log_chunks.owner_id, min(runs.owner_type), min(runs.owner_name), "
        "min(runs.project), count(*), sum(log_chunks.size), 0, 0, CURRENT_TIMESTAMP, 0, "
        "CURRENT_TIMESTAMP FROM log_chunks JOIN runs ON runs.id = log_chunks.run_id "
        "GROUP BY log_chunks.owner_id"
    )


def downgrade() -> None:
    """What lies in files is not brought back: the older version shows the newest lines only."""
    with op.batch_alter_table("log_chunks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_log_chunks_owner_id_transaction_id_id"))
        batch_op.create_index(
            batch_op.f("ix_log_chunks_owner_id_id"), ["owner_id", "id"], unique=False
        )
        batch_op.drop_column("size")

    op.drop_table("owner_logs")
    op.drop_table("log_files")

"""The first schema: the tables as `ledger.tables` declares them."""

from __future__ import annotations

from alembic import op

from obliviate.ledger import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    tables.metadata.create_all(op.get_bind())


def downgrade() -> None:
    """Remove all tables."""
    ours = [table for table in tables.metadata.sorted_tables if table is not tables.alembic_version]
    tables.metadata.drop_all(op.get_bind(), tables=ours)

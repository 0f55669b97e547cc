"""Where the objects of a run lie, and how they are sealed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From 0002: until then they lay in the run's folder, in the clear."""
    op.add_column("runs", sa.Column("vault", sa.String()))


def downgrade() -> None:
    """Back to 0002."""
    op.drop_column("runs", "vault")

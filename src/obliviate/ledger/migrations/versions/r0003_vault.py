"""Where the objects of a run lie, and what they are hashed with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From 0002: until then they lay in the run's folder, hashed with SHA-256."""
    op.add_column("runs", sa.Column("vault", sa.String()))
    op.execute("ALTER TABLE objects RENAME COLUMN sha256 TO hash")
    op.execute("UPDATE objects SET hash = 'sha256:' || hash")


def downgrade() -> None:
    """Back to 0002, where no object was hashed otherwise."""
    op.execute("UPDATE objects SET hash = replace(hash, 'sha256:', '')")
    op.execute("ALTER TABLE objects RENAME COLUMN hash TO sha256")
    op.drop_column("runs", "vault")

"""The first schema: one run in one file, without revisions. Nothing is done to get there."""

from __future__ import annotations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Its tables are there already."""


def downgrade() -> None:
    """There is nothing before it."""

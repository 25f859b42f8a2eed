"""Run by Alembic, in the transaction that `migrate.upgrade` has begun and will end."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

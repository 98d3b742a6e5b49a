"""Alembic's entry: runs the migrations on the connection that storage.migrate hands over, in its transaction."""

from alembic import context

from logos.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, compare_server_default=True
)
with context.begin_transaction():
    context.run_migrations()

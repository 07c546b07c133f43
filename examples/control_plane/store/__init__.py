"""SQLite, embedded: one writer, many readers, the schema by numbered migrations, the trail of what happened."""

from examples.control_plane.store.database import Store, touch

__all__ = ["Store", "touch"]

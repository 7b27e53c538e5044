"""A gallery on a PostgreSQL server with pgvector, for collections beyond one machine."""

from cosphere.gallery.postgres.searching import Found, build_index, drop_index, indexes, search
from cosphere.gallery.postgres.store import PostgresStore, Removed

__all__ = ["Found", "PostgresStore", "Removed", "build_index", "drop_index", "indexes", "search"]

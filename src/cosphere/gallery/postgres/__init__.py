"""A gallery on a PostgreSQL server with pgvector, for collections beyond one machine."""

from cosphere.gallery.postgres.searching import Found, build_index, drop_index, indexes, search
from cosphere.gallery.postgres.store import PostgresStore

__all__ = ["Found", "PostgresStore", "build_index", "drop_index", "indexes", "search"]

"""Alembic's environment, shared by every database of the project; each keeps its migrations beside its tables."""

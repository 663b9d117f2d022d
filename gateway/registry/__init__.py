"""The run registry: what has happened, in SQL."""

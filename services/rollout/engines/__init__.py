"""Engines: who draws completions."""

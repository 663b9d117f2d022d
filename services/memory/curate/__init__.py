"""Curation: what a person changes."""

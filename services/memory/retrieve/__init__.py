"""Retrieval: the job that renders teacher contexts."""

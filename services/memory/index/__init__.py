"""Retrieval's index: items by meaning and by words, rebuildable from the ledger."""

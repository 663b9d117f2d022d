"""Evidence: what attempts say about notes."""

"""Generation by transformers."""

"""The training process of a run, and what it shares with the service."""

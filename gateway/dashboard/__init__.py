"""The built dashboard, as package data: `make dashboard` writes it, `pmd.gateway.api.dashboard` serves it."""

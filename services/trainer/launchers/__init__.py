"""Launchers: who starts and ends training processes."""

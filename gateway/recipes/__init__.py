"""Recipes and problems: what a run is created from."""

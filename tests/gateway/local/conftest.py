"""Tests of one machine start from an environment of their own, as those of the command line do."""

from tests.gateway.cli.conftest import own_environment, pmd

__all__ = ["own_environment", "pmd"]

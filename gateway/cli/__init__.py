"""The `pmd` command line: thin over the gateway's REST API, one file per group of commands.

Invariant: importing it loads neither torch nor pyarrow, so that `pmd --help` answers at once; what a command
needs beyond that is imported where it runs.
"""

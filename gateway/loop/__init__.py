"""The loop as data: what a step is, what comes next, what each phase asks; no network, no database."""

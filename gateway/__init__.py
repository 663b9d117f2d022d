"""The public API, the run registry, the controller, the dashboard and the `pmd` command line.

Invariant: the gateway speaks to services over HTTP only and never imports one, nor torch.
"""

"""Isolation of untrusted Python: `pool` (trusted) directs `zygote` processes, whose sealed children run it.

This package is imported by the zygote too, so nothing is imported here.
"""

"""Judges: our code over third-party libraries, run on hostile data, in sealed children that hold these libraries.

Nothing here is imported by the service itself, so it starts without sympy and can't be hung or crashed by it.
"""

"""Problem sets in files, decoded when a run is created: one file per format, `records` for what they share.

Invariants:
- Files are data: nothing in them is executed or unpickled, and what they expand to is bounded.
- A bad record is reported by file, line and field; the others still load.
"""

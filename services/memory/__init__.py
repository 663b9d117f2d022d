"""Memory: experience, insight and behavior; written, reflected, abstracted, retrieved.

Invariants:
- The ledger is the truth; every change of a bank grows its `seq` in the same transaction.
- Everything that a teacher reads as insight or behavior is text that a model wrote. Code here decides what is
  kept, shown and forgotten, never what it says.
"""

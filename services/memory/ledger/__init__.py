"""The ledger: every memory item with its versions, in SQL. It is the truth; any index is rebuilt from it.

Invariants:
- Every change of a bank happens in one transaction that grows the bank's `seq` by one and is in the audit log; what
  a job writes, it writes in one transaction together with the job's key, so that a repeated job changes nothing.
- Items are never deleted while their bank lives: their status changes, and their versions stay.
- What a person pinned, edited, banned or put away is changed by people alone; machines leave proposals (Law 7).
- An item's id is a function of its bank, level, scope and first text: the same thought written twice is one item.

`items` the values, `tables` and `schema` the database, `transaction` the changes, `reads` the questions, `store`
the object that the service holds.
"""

from pmd.services.memory.ledger.items import CLUSTER, PERSON, BankMoved, Banned, Item, UnknownBank, Use, fingerprint
from pmd.services.memory.ledger.reads import Filter, StepView
from pmd.services.memory.ledger.store import Ledger
from pmd.services.memory.ledger.transaction import Transaction

__all__ = [
    "CLUSTER",
    "PERSON",
    "BankMoved",
    "Banned",
    "Filter",
    "Item",
    "Ledger",
    "StepView",
    "Transaction",
    "UnknownBank",
    "Use",
    "fingerprint",
]

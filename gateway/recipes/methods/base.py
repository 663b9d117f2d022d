"""Base: evaluates the base model and leaves it alone; the floor of every comparison.

Credit: none. Loss: none. Teacher: none.
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss=None, evaluates_only=True)

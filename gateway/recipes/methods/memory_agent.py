"""Memory agent: frozen weights with a growing memory in the prompt; what memory is worth at inference.

Credit: none. Loss: none. Teacher: none; it is the student's own prompt that shows memory, in evaluation too, and in no
other method (Law 1).
"""

from __future__ import annotations

from pmd.gateway.recipes.methods.method import Method

METHOD = Method(loss=None, memory="student")

"""The base model of a run: where its name leads, what it is, whether a recipe can run on it, what that costs."""

"""The leak guard: notes that give an answer away."""

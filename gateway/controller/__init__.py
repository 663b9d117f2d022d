"""The controller: wakes runs up, claims them, submits and records their phases."""

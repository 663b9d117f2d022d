"""Writing memory: jobs that record attempts, reflect and abstract."""

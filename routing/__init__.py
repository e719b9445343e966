"""Which model answers: aliases (Django) and `engine`, which is pure."""

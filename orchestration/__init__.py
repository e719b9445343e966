"""Several models on one request. Empty so far: a single call needs only `routing` and `gateway`."""

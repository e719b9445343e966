"""The data plane: every inference request under `/v1`. Imports no Django."""

"""Compiles, publishes and follows configuration snapshots. Control plane."""

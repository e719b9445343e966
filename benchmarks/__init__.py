"""The load harness: `python -m benchmarks` measures Tokenhub, nginx and the peers side by side; see `--help`."""

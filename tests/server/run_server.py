"""Runs `tokenhub.server` with the application of the server's tests; settings come from the environment."""

import os

from tokenhub.environment import load_settings
from tokenhub.server import build_config, run_server

if __name__ == "__main__":
    run_server(build_config(load_settings(os.environ), "tests.server.slow_application:application"))

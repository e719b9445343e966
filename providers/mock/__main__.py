"""`python -m providers.mock --port 9100`: the mock provider without Django."""

import argparse

from .options import add_arguments, from_arguments
from .run import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m providers.mock", description=__doc__)
    add_arguments(parser)
    run(from_arguments(parser.parse_args()))

"""`python -m selrel` is the command `selrel`: the one file here that knows of another room."""

import sys

from flows.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m domain.web`: serve the shop on this machine."""

import sys

from .app import main

if __name__ == "__main__":
    main(sys.argv[1:])

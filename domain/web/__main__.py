"""`python -m domain.web`: serve the shop on this machine."""

import sys

from .serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""transformers' own `serve`, as it is: only its path is given here."""

import sys

from transformers.cli.transformers import main

if __name__ == "__main__":
    sys.argv.insert(1, "serve")
    main()

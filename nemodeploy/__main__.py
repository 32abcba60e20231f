"""`python -m nemodeploy`, and what the installed command runs."""

import sys

try:
    from nemodeploy import interrupts

    interrupts.hold()
except KeyboardInterrupt:
    sys.exit(130)


def main() -> None:
    """Import what a command needs, which takes a tenth of a second, and run it; Ctrl-C is held meanwhile."""
    from nemodeploy.cli.main import main as run

    run()


if __name__ == "__main__":
    main()

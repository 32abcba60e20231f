"""`python -m nemodeploy`."""

from nemodeploy.cli.main import main

if __name__ == "__main__":
    main()

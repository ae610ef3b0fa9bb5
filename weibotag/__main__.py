"""`python -m weibotag` is the `weibotag` command."""

from weibotag.cli.main import main

if __name__ == "__main__":
    main()

"""`weibotag` and `python -m weibotag`: the command line, which Ctrl-C ends in one line even while it is being imported."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        # Only here, where an interruption is caught.
        from weibotag.cli.main import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted: the same command goes on\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

"""The `weibotag` command: its command tree, and errors as one line with an exit code."""

import logging
import sys
from typing import Annotated

import typer

from weibotag import __version__
from weibotag.cli.evaluate import evaluate_command
from weibotag.cli.tagging import run_command, status_command, tag_command, train_command
from weibotag.cli.taxonomy import app as taxonomy_app
from weibotag.errors import WeibotagError

app = typer.Typer(
    name="weibotag",
    help="Tag social posts (text, pictures) with hierarchical tags and keywords, in batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train_command)
app.command("tag")(tag_command)
app.command("evaluate")(evaluate_command)
app.command("run")(run_command)
app.command("status")(status_command)
app.add_typer(taxonomy_app, name="taxonomy")


def print_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        typer.echo(f"weibotag {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tag social posts (text, pictures) with hierarchical tags and keywords, in batches."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")


def main() -> None:
    """Run the command line; every expected error is one line on stderr and its exit code."""
    try:
        code = app(standalone_mode=False)
    except WeibotagError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted: the same command goes on\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)

"""The `weibotag` command: its command tree, and errors as one line with an exit code."""

import logging
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weibotag.cli.command import Later
from weibotag.core import __version__
from weibotag.core.errors import RequestError, WeibotagError

INTERRUPTED = 130
# What a shell shows for a program that SIGPIPE ended.
PIPE_CLOSED = 141
# Where each command is, and its summary.
COMMANDS = {
    "train": ("train:train", "Train a tagger on labelled posts."),
    "pretrain": ("train:pretrain", "Pretrain a network on posts that need no tags."),
    "tag": ("tag:tag", "Tag posts with a model, or with a taxonomy alone."),
    "plan": ("plan:plan", "Time a cascade on a sample of posts, and plan what a budget buys."),
    "evaluate": ("evaluate:evaluate", "Measure predicted tags and keywords against gold ones."),
    "compare": ("evaluate:compare", "Train taggers on the same rows: what each brings and costs."),
    "export": ("tag:export", "Write a file of tags in another format."),
    "run": ("tag:run", "Do what a pipeline file says. This is what cron calls."),
    "status": ("tag:status", "Say how far a run is, and what it has rejected."),
    "ocr": ("stages:ocr", "Read the text in the pictures of posts."),
    "detect": ("stages:detect", "Find the objects in the pictures of posts."),
    "faces": ("stages:faces_group", "Find the faces in pictures; a gallery gives them names."),
    "embed": ("stages:embed", "Turn the pictures of posts into vectors."),
    "wordings": ("stages:wordings", "Write what the pictures of posts say, as words."),
    "similarity": ("stages:similarity", "Say how well the text and the pictures of posts belong together."),
    "taxonomy": ("taxonomy:group", "Check a tag tree, show it, audit it, apply proposals."),
    "keywords": ("keywords:group", "Find the keywords of each channel; shrink them to clusters."),
    "codes": ("keywords:codes_group", "Turn vectors into words: semantic codes, coarse to fine."),
    "models": ("weights:group", "Weights: what there is, fetch it, check it."),
    "doctor": ("doctor:doctor", "Say what is installed and what is missing."),
}


class Commands(TyperGroup):
    """The command tree; every expected error is one line on stderr and its exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (place, summary) in COMMANDS.items():
            self.add_command(Later(name, f"weibotag.cli.{place}", summary))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except WeibotagError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            typer.echo("interrupted: the same command goes on", err=True)
            raise typer.Exit(INTERRUPTED) from stop
        except BrokenPipeError as error:
            # Python flushes stdout once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from error
        except OSError as error:
            # A full disk, lost rights: nothing of the request, but nothing that trying again at once would mend either.
            place = f"{error.filename}: " if error.filename else ""
            typer.echo(f"error: {place}{error.strerror or error}", err=True)
            raise typer.Exit(RequestError.exit_code) from error


app = typer.Typer(
    name="weibotag",
    cls=Commands,
    help="Tag social posts (text, pictures) with hierarchical tags and keywords, in batches.",
    epilog="Example: weibotag tag posts.csv -t taxonomy.csv -o tags.csv",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    """Run the command line."""
    app(prog_name="weibotag")

"""The `weibotag` command: its command tree, and errors as one line with an exit code."""

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weibotag.cli.command import Later
from weibotag.cli.faults import OneLine, prepare_streams, report
from weibotag.core import __version__
from weibotag.core.errors import EXIT_CODES, INTERRUPTED

# Where each command is, and its summary.
COMMANDS = {
    "train": ("train:train", "Train a tagger on labelled posts."),
    "pretrain": ("train:pretrain", "Pretrain a network on posts that need no tags."),
    "tag": ("tag:tag", "Tag posts with a model, or with a taxonomy alone."),
    "plan": ("plan:plan", "Time a cascade on some posts; plan what a budget buys."),
    "evaluate": ("evaluate:evaluate", "Measure predicted tags and keywords against gold ones."),
    "compare": ("evaluate:compare", "Train taggers on the same rows: what each brings and costs."),
    "report": ("evaluate:report", "Write a page to look at: posts, tags, why, and what is wrong."),
    "export": ("tag:export", "Write a file of tags in another format."),
    "run": ("tag:run", "Do what a pipeline file says; what cron calls."),
    "status": ("tag:status", "Say how far a run is, and what it has rejected."),
    "fetch": ("fetch:fetch", "Fetch the pictures that posts name by web addresses."),
    "ocr": ("stages:ocr", "Read the text in the pictures of posts."),
    "detect": ("stages:detect", "Find the objects in the pictures of posts."),
    "faces": ("stages:faces_group", "Find the faces in pictures; a gallery gives them names."),
    "embed": ("stages:embed", "Turn the pictures of posts into vectors."),
    "encode": ("stages:encode", "Turn the texts of posts into vectors."),
    "wordings": ("stages:wordings", "Write what the pictures of posts say, as words."),
    "similarity": ("stages:similarity", "Say how well texts and pictures belong together."),
    "taxonomy": ("taxonomy:group", "Check a tag tree, show it, audit it, apply proposals."),
    "review": ("review:group", "Posts for people to review, and what they decided."),
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

    def main(self, *words: Any, **options: Any) -> Any:
        """Run the command line, and end the process with the exit code."""
        try:
            code = super().main(*words, **(options | {"standalone_mode": False}))
            if code == INTERRUPTED:
                code = report(KeyboardInterrupt())
        except Exception as error:  # noqa: BLE001 - reported, whatever it is
            code = report(error.__cause__ if isinstance(error, _StoppedError) and error.__cause__ else error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            raise _StoppedError from error


class _StoppedError(Exception):
    """Brings an OSError past typer, which ends the process of some without a word."""


app = typer.Typer(
    name="weibotag",
    cls=Commands,
    help="Tag social posts (text, pictures) with hierarchical tags and keywords, in batches.",
    epilog="Example: weibotag tag posts.csv -t taxonomy.csv -o tags.csv\n\nExit codes: "
    + "; ".join(f"{code} {meaning.partition(':')[0]}" for code, meaning in EXIT_CODES.items()),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: to import what draws boxes takes a third of the time of this help.
    rich_markup_mode=None,
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
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(OneLine())
    logging.basicConfig(handlers=[lines], level=logging.WARNING)


def main() -> None:
    """Run the command line."""
    prepare_streams()
    app(prog_name="weibotag")

"""The `weibotag` command: its command tree, and errors as one line with an exit code."""

import logging
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weibotag import __version__
from weibotag.cli.codes import app as codes_app
from weibotag.cli.compare import compare_command
from weibotag.cli.doctor import doctor_command
from weibotag.cli.evaluate import evaluate_command
from weibotag.cli.export import export_command
from weibotag.cli.gallery import app as gallery_app
from weibotag.cli.keywords import app as keywords_app
from weibotag.cli.models import app as models_app
from weibotag.cli.planning import plan_command
from weibotag.cli.pretrain import pretrain_command
from weibotag.cli.similarity import similarity_command
from weibotag.cli.stages import StageGroup, detect_command, embed_command, faces_command, ocr_command, wordings_command
from weibotag.cli.tagging import run_command, status_command, tag_command, train_command
from weibotag.cli.taxonomy import app as taxonomy_app
from weibotag.core.errors import RequestError, WeibotagError

INTERRUPTED = 130
# What a shell shows for a program that SIGPIPE ended.
PIPE_CLOSED = 141


class Commands(TyperGroup):
    """The command tree; every expected error is one line on stderr and its exit code."""

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
app.command("train")(train_command)
app.command("pretrain")(pretrain_command)
app.command("tag")(tag_command)
app.command("plan")(plan_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("export")(export_command)
app.command("run")(run_command)
app.command("status")(status_command)
app.command("ocr")(ocr_command)
app.command("detect")(detect_command)
faces_app = typer.Typer(cls=StageGroup, help="Find the faces in pictures; a gallery gives them names.")
faces_app.command("posts")(faces_command)
faces_app.add_typer(gallery_app, name="gallery")
app.add_typer(faces_app, name="faces")
app.command("embed")(embed_command)
app.command("wordings")(wordings_command)
app.command("similarity")(similarity_command)
app.add_typer(taxonomy_app, name="taxonomy")
app.add_typer(keywords_app, name="keywords")
app.add_typer(codes_app, name="codes")
app.add_typer(models_app, name="models")
app.command("doctor")(doctor_command)


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

"""`weibotag ocr`, `detect`, `faces`, `embed`, `wordings`: what pictures say, without tagging."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from weibotag.cli.options import Columns, Gallery, Json, Limit, Quiet, Reuse, Store, Where, check_stdout, parse_columns
from weibotag.cli.tagging import PipelineOption, PostsArgument, RunOption, WorkersOption, choose_tagger, report, tell_seen
from weibotag.core.errors import RequestError

if TYPE_CHECKING:
    from weibotag.extraction.settings import Pipeline
    from weibotag.taggers.tagger_ref import TaggerRef

OutOption = Annotated[str, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")]
Backend = typer.Option(None, "--backend", help="Library that looks; see docs/backends.md.", show_default="the pipeline's")
Model = typer.Option(None, "--model", help="Model of the backend: a file, a folder or a name.", show_default="the backend's")


class StageGroup(TyperGroup):
    """A stage that has commands of its own: what is not one of their names is POSTS."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the first command, which looks at posts, before arguments that name none."""
        if not args or args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def shared_options(
    posts: PostsArgument,
    out: OutOption,
    pipeline: PipelineOption = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    run: RunOption = None,
    store: Path | None = Store,
    workers: WorkersOption = None,
    reuse: Reuse = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Name the options of every command that looks at pictures; it is never called."""


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command(shared, ...)` as typer is to see it: with its own options after the shared ones."""
    shared = inspect.signature(shared_options).parameters
    own = list(inspect.signature(command).parameters.values())[1:]

    def seen(**given: Any) -> None:
        command({name: given.pop(name) for name in shared}, **given)

    seen.__doc__ = command.__doc__
    seen.__signature__ = inspect.Signature([*shared.values(), *own])  # type: ignore[attr-defined]
    seen.__annotations__ = {**shared_options.__annotations__, **command.__annotations__}
    return seen


@with_shared_options
def ocr_command(shared: dict[str, Any], backend: str | None = Backend) -> None:
    """Read the text in the pictures of posts.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag ocr posts.csv -o ocr.parquet
    """
    look_with("ocr", shared, backend=backend)


@with_shared_options
def detect_command(
    shared: dict[str, Any],
    backend: str | None = Backend,
    model: str | None = Model,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="TAG", help="Look for what this tag and those below it name.")
    ] = None,
    taxonomy: Annotated[Path | None, typer.Option("--taxonomy", "-t", help="The tag tree that --classes is in.")] = None,
) -> None:
    """Find the objects in the pictures of posts.

    With --classes a detector of an open vocabulary (YOLOE, YOLO-World, Grounding DINO) looks for the tags of a branch.

    Example: weibotag detect posts.csv -o objects.parquet --model yolo11n.onnx

    Example: weibotag detect posts.csv -o objects.parquet --backend transformers
    --model hf:IDEA-Research/grounding-dino-tiny --classes 美妆 -t taxonomies/weibo.csv
    """
    if (classes is None) != (taxonomy is None):
        raise RequestError("--classes and --taxonomy go together: the tag, and the tag tree that it is in")
    tree = None if taxonomy is None else str(taxonomy)
    look_with("detect", shared, backend=backend, model=model, branch=classes, taxonomy=tree)


@with_shared_options
def faces_command(shared: dict[str, Any], backend: str | None = Backend, gallery: Gallery = None) -> None:
    """Find the faces in the pictures of posts, and their names by a gallery; `weibotag faces gallery` makes one.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag faces posts.csv -o faces.parquet --gallery stars.gallery
    """
    look_with("faces", shared, gallery, backend=backend)


@with_shared_options
def embed_command(shared: dict[str, Any], backend: str | None = Backend, model: str | None = Model) -> None:
    """Turn the pictures of posts into vectors.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag embed posts.csv -o vectors.parquet
    """
    look_with("embed", shared, backend=backend, model=model)


@with_shared_options
def wordings_command(
    shared: dict[str, Any],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Add the visual codes of a model that `weibotag train` made.")
    ] = None,
    taxonomy: Annotated[
        Path | None, typer.Option("--taxonomy", "-t", help="Add tag names that pictures show (embed with chineseclip).")
    ] = None,
    gallery: Gallery = None,
) -> None:
    """Write what the pictures of posts say, as words: text, objects, faces and, with a model, visual codes. A row per post.

    Example: weibotag wordings posts.csv -o wordings.parquet

    Example: weibotag wordings posts.csv -m model -o wordings.jsonl
    """
    from weibotag.extraction.settings import read_pipeline

    settings = read_pipeline(shared["pipeline"]).with_looks(gallery, shared["reuse"])
    tagger = None
    if model is not None or taxonomy is not None:
        tagger, settings = choose_tagger(model, taxonomy, None, settings)
    else:
        # Vectors become words only by a model's codebook or a taxonomy's names.
        stages = tuple(stage for stage in settings.stages if stage != "embed")
        settings = settings.model_copy(update={"stages": stages})
    write_findings("wordings", shared, settings, tagger)


def look_with(stage: str, shared: dict[str, Any], gallery: Path | None = None, **given: Any) -> None:
    """Look at the pictures with one stage; `given` goes before what the pipeline says of it."""
    from weibotag.extraction.settings import read_pipeline

    settings = read_pipeline(shared["pipeline"]).with_looks(gallery, shared["reuse"])
    said = {name: value for name, value in given.items() if value is not None}
    write_findings(stage, shared, settings.with_stage(stage, said))


def write_findings(answer: str, shared: dict[str, Any], settings: "Pipeline", tagger: "TaggerRef | None" = None) -> None:
    """Look at the pictures, write what `answer` found, and say what it took."""
    from weibotag.posts.source import PostsSource
    from weibotag.workflows.run_stage import look_only

    check_stdout(shared["out"], shared["as_json"])
    summary = look_only(
        PostsSource(shared["posts"], parse_columns(shared["column"]), shared["where"], shared["limit"]),
        shared["out"],
        answer,
        settings,
        tagger=tagger,
        run_folder=shared["run"],
        store=shared["store"],
        workers=shared["workers"],
        quiet=shared["quiet"],
    )
    report(summary, describe_looks(summary), shared["as_json"], shared["quiet"])


def describe_looks(summary: dict[str, Any]) -> str:
    """Return what a run of a stage did, in one line."""
    rejects = f", {summary['rejects']:,} rows rejected (see {summary['run']}/rejects.csv)" if summary["rejects"] else ""
    return (
        f"{summary['out']}: {summary['rows']:,} rows, {summary['posts']:,} posts, "
        f"{tell_seen(summary['pictures'])}{rejects}; {summary['seconds']:.1f} s"
    )

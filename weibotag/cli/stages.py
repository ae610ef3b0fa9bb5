"""`weibotag ocr`, `faces`, `embed`, `wordings`: what pictures say, without tagging."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weibotag.cli.options import Columns, Json, Limit, Quiet, Store, Where, check_stdout, parse_columns
from weibotag.cli.tagging import PipelineOption, PostsArgument, RunOption, WorkersOption, choose_tagger, report

if TYPE_CHECKING:
    from weibotag.settings import Pipeline

STAGES = {
    "ocr": "Read the text in the pictures of posts.",
    "faces": "Find the faces in the pictures of posts.",
    "embed": "Turn the pictures of posts into vectors.",
}
OutOption = Annotated[str, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")]


def make_stage_command(stage: str, what: str) -> Callable[..., None]:
    """Return the command that does one stage alone; `what` is the first line of its help."""

    def stage_command(
        posts: PostsArgument,
        out: OutOption,
        pipeline: PipelineOption = None,
        where: str | None = Where,
        column: list[str] | None = Columns,
        limit: int | None = Limit,
        run: RunOption = None,
        store: Path | None = Store,
        workers: WorkersOption = None,
        quiet: bool = Quiet,
        as_json: bool = Json,
    ) -> None:
        from weibotag.findings import look_only
        from weibotag.posts import PostsSource
        from weibotag.settings import read_pipeline

        check_stdout(out, as_json)
        summary = look_only(
            PostsSource(posts, parse_columns(column), where, limit),
            out,
            stage,
            read_pipeline(pipeline).model_copy(update={"stages": (stage,)}),
            run_folder=run,
            store=store,
            workers=workers,
            quiet=quiet,
        )
        report(summary, describe_looks(summary), as_json, quiet)

    stage_command.__doc__ = (
        f"{what}\n\nOne row per picture or frame of each post. Pictures that the store knows are not looked at again.\n\n"
        f"Example: weibotag {stage} posts.csv -o {stage}.parquet"
    )
    return stage_command


def wordings_command(
    posts: PostsArgument,
    out: OutOption,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Add the visual codes of a model that `weibotag train` made.")
    ] = None,
    pipeline: PipelineOption = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    run: RunOption = None,
    store: Path | None = Store,
    workers: WorkersOption = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Write what the pictures of posts say, as words: text, faces and, with a model, visual codes. One row per post.

    Example: weibotag wordings posts.csv -o wordings.parquet

    Example: weibotag wordings posts.csv -m model -o wordings.jsonl
    """
    from weibotag.findings import look_only
    from weibotag.posts import PostsSource

    check_stdout(out, as_json)
    tagger, settings = choose_codes(model, pipeline)
    summary = look_only(
        PostsSource(posts, parse_columns(column), where, limit),
        out,
        "wordings",
        settings,
        tagger=tagger,
        run_folder=run,
        store=store,
        workers=workers,
        quiet=quiet,
    )
    report(summary, describe_looks(summary), as_json, quiet)


def choose_codes(model: Path | None, pipeline: str | None) -> tuple[dict[str, Any] | None, "Pipeline"]:
    """Return whose visual codes are added (None: nobody's), and how pictures are looked at."""
    from weibotag.settings import read_pipeline

    if model is not None:
        return choose_tagger(model, None, None, read_pipeline(pipeline))
    settings = read_pipeline(pipeline)
    # Vectors become words only by a model's codebook.
    return None, settings.model_copy(update={"stages": tuple(stage for stage in settings.stages if stage != "embed")})


def describe_looks(summary: dict[str, Any]) -> str:
    """Return what a run of a stage did, in one line."""
    pictures = summary["pictures"]
    rejects = f", {summary['rejects']:,} rows rejected (see {summary['run']}/rejects.csv)" if summary["rejects"] else ""
    return (
        f"{summary['out']}: {summary['rows']:,} rows, {summary['posts']:,} posts, "
        f"{pictures['files']:,} pictures ({pictures['reused']:,} known before){rejects}; "
        f"{summary['seconds']:.1f} s"
    )

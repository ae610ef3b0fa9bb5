"""`weibotag pretrain`: a network learns from posts without tags what goes with what."""

from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Columns, Json, Limit, Quiet, Store, Where, parse_columns
from weibotag.cli.tagging import PipelineOption, PostsArgument, WorkersOption, report
from weibotag.core.errors import MissingExtraError


def pretrain_command(
    posts: PostsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the body.")],
    network: Annotated[
        str, typer.Option("--network", help="single-stream, two-stream, early, patches, visualbert, lxmert or sm-lstm.")
    ] = "single-stream",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times that all posts are gone through at most.")] = 30,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0, help="What training may take.", show_default="as long as it gets better"),
    ] = None,
    pipeline: PipelineOption = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: CUDA where there is one.")] = "auto",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of the network; above 1 a body can't be made again exactly.")
    ] = 1,
    store: Path | None = Store,
    workers: WorkersOption = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Pretrain a network on posts that need no tags: masked characters, words and pictures, and what belongs together.

    Example: weibotag pretrain posts.csv -o body --network single-stream --minutes 30
    """
    from dataclasses import replace
    from importlib.util import find_spec

    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource

    if find_spec("torch") is None:
        raise MissingExtraError("pretrain", "torch")
    from weibotag.training.network.pretraining import SETTINGS
    from weibotag.workflows.pretrain import pretrain_posts

    about = pretrain_posts(
        PostsSource(posts, parse_columns(column), where, limit),
        out,
        read_pipeline(pipeline),
        network,
        replace(SETTINGS, epochs=epochs, minutes=minutes),
        device=device,
        threads=threads,
        store=store,
        workers=workers,
        quiet=quiet,
    )
    figures = ", ".join(f"{name} {value}" for name, value in about["figures"].items())
    report(
        about, f"{out}: {network} on {about['posts']['train']:,} posts; {figures}; {about['seconds']:.0f} s", as_json, quiet
    )

"""`weibotag similarity`: how well the text and the pictures of each post belong together."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weibotag.cli.options import check_stdout, parse_columns
from weibotag.cli.stages import describe_looks, with_shared_options
from weibotag.cli.tagging import report


@with_shared_options
def similarity_command(
    shared: dict[str, Any],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Folder that `weibotag pretrain` made; without one: Chinese-CLIP.")
    ] = None,
) -> None:
    """Say how well the text and the pictures of each post belong together, from 0 to 1.

    Example: weibotag similarity posts.csv -m body -o similarity.csv

    Example: weibotag similarity posts.csv -p clip.toml -o similarity.parquet
    """
    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource
    from weibotag.workflows.similarity import measure_similarity

    check_stdout(shared["out"], shared["as_json"])
    summary = measure_similarity(
        PostsSource(shared["posts"], parse_columns(shared["column"]), shared["where"], shared["limit"]),
        shared["out"],
        model,
        read_pipeline(shared["pipeline"]).with_looks(None, shared["reuse"]),
        run_folder=shared["run"],
        store=shared["store"],
        workers=shared["workers"],
        quiet=shared["quiet"],
    )
    report(summary, describe_looks(summary), shared["as_json"], shared["quiet"])

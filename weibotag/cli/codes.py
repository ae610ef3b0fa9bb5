"""`weibotag codes`: vectors as words, for models that read ids only."""

from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Json, Quiet
from weibotag.cli.tagging import report
from weibotag.core.errors import RequestError

app = typer.Typer(help="Turn vectors into words: semantic codes, coarse to fine.", no_args_is_help=True)

VectorsArgument = Annotated[
    Path, typer.Argument(metavar="VECTORS", help="Parquet with post_id and a column of lists of floats: `weibotag embed`.")
]
VectorColumn = Annotated[
    str | None, typer.Option("--column", help="Column with the vectors.", show_default="embed_vector, or the only one")
]


@app.command("fit")
def fit_command(
    vectors: VectorsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the codes (.safetensors).")],
    levels: Annotated[int | None, typer.Option("--levels", min=1, max=8, help="Levels.", show_default="3")] = None,
    size: Annotated[int | None, typer.Option("--size", min=2, help="Codes of a level.", show_default="256")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What the words begin with.", show_default="s0")] = None,
    align: Annotated[
        Path | None, typer.Option("--align", metavar="OLD", help="Codes of an earlier time, whose words keep their meaning.")
    ] = None,
    column: VectorColumn = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Learn semantic codes from vectors; with --align anew from old ones, and tell how many vectors keep theirs.

    Example: weibotag codes fit vectors.parquet -o today.safetensors --align yesterday.safetensors
    """
    from weibotag.curation.keywords.semantic_codes import fit_codes, foresee_codes

    if align is not None and (levels, size, name) != (None, None, None):
        raise RequestError("--align takes --levels, --size and --name from the old codes: leave them out")
    if not quiet:
        typer.echo(foresee_codes(vectors, column, size or 256, levels or 3), err=True)
    summary = fit_codes(vectors, out, name=name or "s0", levels=levels or 3, size=size or 256, column=column, align_to=align)
    line = f"{out}: {summary['vectors']:,} vectors, explained by level: {_spell(summary['explained'])}"
    if align is not None:
        line += f" (old codes: {_spell(summary['explained_before'])}); keep theirs: {_spell(summary['kept'])}"
    report(summary, line, as_json, quiet)


@app.command("apply")
def apply_command(
    vectors: VectorsArgument,
    model: Annotated[Path, typer.Option("--model", "-m", metavar="CODES", help="What `weibotag codes fit` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv or OUT.jsonl.")],
    column: VectorColumn = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Write the semantic codes of posts, a row each: s0_17, s0_17_203 …

    Example: weibotag codes apply vectors.parquet -m codes.safetensors -o codes.parquet
    """
    from weibotag.curation.keywords.semantic_codes import SemanticCodes, apply_codes, foresee_codes

    if not quiet:
        typer.echo(foresee_codes(vectors, column, None, 3), err=True)
    summary = apply_codes(vectors, SemanticCodes.load(model), out, column)
    report(summary, f"{out}: {summary['posts']:,} posts, {summary['vectors']:,} vectors", as_json, quiet)


def _spell(shares: list[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)

"""`weibotag codes`: vectors as words, for models that read ids only."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from weibotag.cli.answer import Answer, say
from weibotag.cli.command import Group, command
from weibotag.core.errors import RequestError
from weibotag.core.option import Argument, Option, Quiet
from weibotag.extraction.requests import Out

Vectors = Annotated[Path, Argument("Parquet with post_id and a column of lists of floats: `weibotag embed`.", "VECTORS")]
Column = Annotated[str | None, Option("Column with the vectors.", shown="embed_vector, or the only one")]


@command("fit")
def fit(
    vectors: Vectors,
    out: Annotated[Path, Option("File of the codes (.safetensors).", short="-o")],
    levels: Annotated[int | None, Ge(1), Le(8), Option("Levels.", shown="3")] = None,
    size: Annotated[int | None, Ge(2), Option("Codes of a level.", shown="256")] = None,
    name: Annotated[str | None, Option("What the words begin with.", shown="s0")] = None,
    align: Annotated[Path | None, Option("Earlier codes, whose words keep their meaning.", metavar="OLD")] = None,
    column: Column = None,
    quiet: Quiet = False,
) -> Answer:
    """Learn semantic codes from vectors; with --align anew from old ones, and tell how many vectors keep theirs.

    Example: weibotag codes fit vectors.parquet -o today.safetensors --align yesterday.safetensors
    """
    from weibotag.curation.keywords.semantic_codes import cost_of_fitting, fit_codes

    if align is not None and (levels, size, name) != (None, None, None):
        raise RequestError("--align takes --levels, --size and --name from the old codes: leave them out")
    levels, size, name = levels or 3, size or 256, name or "s0"
    say(cost_of_fitting(vectors, column, size, levels), quiet)
    summary = fit_codes(vectors, out, name=name, levels=levels, size=size, column=column, align_to=align)
    line = f"{out}: {summary.vectors:,} vectors, explained by level: {_spell(summary.explained)}"
    if summary.kept is not None and summary.explained_before is not None:
        line += f" (old codes: {_spell(summary.explained_before)}); keep theirs: {_spell(summary.kept)}"
    return Answer(asdict(summary), line)


@command("apply")
def apply(
    vectors: Vectors,
    model: Annotated[Path, Option("What `weibotag codes fit` wrote.", short="-m", metavar="CODES")],
    out: Out,
    column: Column = None,
    quiet: Quiet = False,
) -> Answer:
    """Write the semantic codes of posts, a row each: s0_17, s0_17_203 …

    Example: weibotag codes apply vectors.parquet -m codes.safetensors -o codes.parquet
    """
    from weibotag.curation.keywords.semantic_codes import SemanticCodes, apply_codes

    summary = apply_codes(vectors, SemanticCodes.load(model), Path(out), column)
    return Answer(asdict(summary), f"{out}: {summary.posts:,} posts, {summary.vectors:,} vectors")


def _spell(shares: list[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


group = Group("codes", "Turn vectors into words: semantic codes, coarse to fine.", fit, apply)

"""`weibotag models`: which weights there are, fetch them, check them."""

from dataclasses import asdict
from typing import Annotated

from weibotag.cli.answer import Answer, make_table, yes_no
from weibotag.cli.command import Group, command
from weibotag.core.option import Argument, Option

NAME_HELP = "A name of the table, a pattern, a path, hf:owner/name or hf:owner/name@revision; may end in #sha256=HEX."


@command("list")
def list_models() -> Answer:
    """List the models that weibotag knows, and where each is on this machine, or comes from.

    Example: weibotag models list
    """
    from weibotag.vision.weights.catalogue import TABLE, at_hand

    paths = [at_hand(model.name) for model in TABLE]
    rows = [{**asdict(model), "path": str(path) if path else None} for model, path in zip(TABLE, paths, strict=True)]
    headings = ("name", "stage", "size", "sha256", "licence", "extra", "here", "where it is, or comes from")
    cells = [
        (
            row["name"],
            row["stage"],
            f"{row['size'] / 1e6:,.1f} MB" if row["size"] else "?",
            row["sha256"][:12] if row["sha256"] else "?",
            row["licence"],
            row["extra"],
            yes_no(bool(row["path"])),
            row["path"] or row["source"],
        )
        for row in rows
    ]
    return Answer(rows, shown=[make_table("Models", headings, cells)])


@command("pull")
def pull_models(
    names: Annotated[list[str], Argument(NAME_HELP, "NAME...")],
    allow_pickle: Annotated[bool, Option("Take .pt files and the like, whose hash must be known.")] = False,
) -> Answer:
    """Download models that are not here yet, check them, and print where they are.

    Example: weibotag models pull face_detection_yunet_2026may.onnx
    """
    from weibotag.vision.weights.catalogue import pull

    paths = [str(pull(name, allow_pickle)) for name in names]
    return Answer(paths, shown="\n".join(paths))


@command("check")
def check_models(names: Annotated[list[str] | None, Argument(NAME_HELP, "[NAME...]")] = None) -> Answer:
    """Measure the models that are here; exit 2 when one is damaged, or one that was asked for is absent.

    Example: weibotag models check
    """
    from weibotag.vision.weights.catalogue import TABLE, at_hand, examine

    asked = names or [model.name for model in TABLE if at_hand(model.name)]
    states = [(name, examine(name)) for name in asked]
    lines = []
    for name, state in states:
        digest = f", sha256 {state.sha256}" if state.sha256 else ""
        lines.append(f"{name}: {state.fault or f'ok, {state.path}{digest}'}")
    faults = sum(state.fault is not None for _, state in states)
    line = "" if names else f"{len(asked)} of {len(TABLE)} models are here"
    found = [{"name": name, **asdict(state)} for name, state in states]
    return Answer(found, line, "\n".join(lines) or None, code=2 if faults else 0)


group = Group(
    "models",
    "Weights: what there is, fetch it, check it.",
    list_models,
    pull_models,
    check_models,
)

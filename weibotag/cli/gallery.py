"""`weibotag faces gallery`: names for faces, from a folder of photos per name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from weibotag.cli.answer import Answer
from weibotag.cli.command import Group, command
from weibotag.core.option import Argument, Input, Option, Output, Quiet
from weibotag.extraction.requests import PIPELINE

if TYPE_CHECKING:
    from weibotag.vision.gallery_worth import Worth

# Warnings and photos left out that are written out; the rest is counted, and all are in the JSON.
SHOWN = 20

GALLERY = Argument("Gallery that `weibotag faces gallery build` made.")


@command("build")
def build(
    folder: Annotated[Path, Argument("Folder that holds a folder of photos for each name.", "DIR"), Input()],
    out: Annotated[
        Path, Option("Gallery to write; an older one at that place is replaced.", short="-o"), Output(beside=(".log",))
    ],
    pipeline: Annotated[str | None, PIPELINE, Input()] = None,
    quiet: Quiet = False,
) -> Answer:
    """Make a gallery from a folder of photos per name: the largest face of each photo, and the threshold for a name.

    The threshold is chosen so that one face in a thousand of people who are not in the gallery gets a name. Names that were
    removed from the gallery at OUT stay out, as the log beside it says.

    Example: weibotag faces gallery build stars/ -o stars.gallery
    """
    from weibotag.extraction.pipeline_files import read_pipeline
    from weibotag.vision.face_gallery import build_gallery, list_removed
    from weibotag.vision.gallery_worth import assess

    stage: Any = read_pipeline(pipeline).make_stage("faces")
    gallery, photos = build_gallery(folder, stage, list_removed(out), quiet)
    gallery.save(out)
    left_out = [{"photo": str(photo.path), "reason": photo.reason} for photo in photos if photo.reason is not None]
    used = [str(photo.path) for photo in photos if photo.reason is None]
    worth = assess(gallery)
    for odd in worth["odd"]:
        odd["photo"] = used[odd["face"]]
    lines = [f"{out}: {line}" for line in describe(worth)]
    lines += shorten([f"{odd['photo']} looks more like {odd['looks_like']} ({odd['score']:.2f})" for odd in worth["odd"]])
    lines += shorten([f"{photo['photo']}: left out: {photo['reason']}" for photo in left_out])
    return Answer({"gallery": str(out), **worth, "left_out": left_out}, "\n".join(lines))


@command("show")
def show(gallery: Annotated[Path, GALLERY, Input()]) -> Answer:
    """Print the names of a gallery, and how well its own faces are recognised.

    Example: weibotag faces gallery show stars.gallery
    """
    from weibotag.vision.face_gallery import read_gallery
    from weibotag.vision.gallery_worth import assess

    worth = assess(read_gallery(gallery))
    lines = describe(worth)
    for name in worth["names"]:
        seen = "" if name["recognised"] is None else f", {name['recognised']} recognised"
        lines.append(f"{name['name']}: {name['faces']} faces{seen}")
    return Answer({"gallery": str(gallery), **worth}, shown="\n".join(lines))


@command("remove")
def remove(
    gallery: Annotated[Path, GALLERY, Output(beside=(".log",))], name: Annotated[str, Argument("Name to remove.")]
) -> Answer:
    """Remove a name and its faces from a gallery, for good: the log beside it keeps the name out of later builds.

    The log says when, how many faces, and the sha256 of the name.

    Example: weibotag faces gallery remove stars.gallery 刘德华
    """
    from weibotag.vision.face_gallery import log_of, remove_name

    removed, log = remove_name(gallery, name), str(log_of(gallery))
    line = f"{gallery}: {name} and {removed} faces removed, see {log}"
    return Answer({"gallery": str(gallery), "name": name, "removed": removed, "log": log}, line)


def describe(worth: "Worth") -> list[str]:
    """Return what a gallery is worth, and what to look after, in lines."""
    from weibotag.vision.face_gallery import FALSE_NAMES, STRANGERS_PAIRS

    names = len(worth["names"])
    lines = [
        f"{names:,} names, {worth['faces']:,} faces; a cosine of {worth['threshold']:.3f} and more is a name, "
        f"so that {FALSE_NAMES:.1%} of strangers get one"
    ]
    for scores, whose in ((worth["own"], "their own name"), (worth["strangers"], "other names")):
        if scores is not None:
            lines.append(
                f"cosines of faces with {whose}: {scores['q05']:.2f} {scores['q50']:.2f} {scores['q95']:.2f} "
                f"(5, 50, 95 of a hundred below), {scores['highest']:.2f} at most"
            )
    if worth["recognised"] is not None:
        lines.append(f"{worth['recognised']:.1%} of its faces would get their name if they came in new pictures")
    if worth["misnamed"] is not None:
        lines.append(f"{worth['misnamed']:.1%} would get another one if their own were not there")
    if names * (names - 1) / 2 < STRANGERS_PAIRS:
        lines.append("so few names say little about strangers: more of them, whoever they are, make the threshold surer")
    return lines + shorten(
        [
            f"{' and '.join(pair['names'])} look alike ({pair['score']:.2f}): one person, or faces to mix up?"
            for pair in worth["alike"]
        ]
    )


def shorten(lines: list[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more:,} more like the last"] if more > 0 else lines


group = Group(
    "gallery",
    "Give faces names: build, show or cut a gallery of known faces.",
    build,
    show,
    remove,
)

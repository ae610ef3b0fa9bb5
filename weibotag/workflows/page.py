"""A folder that a browser opens from disk: posts with their tags, what spoke for them, their pictures, what is wrong.

`index.html` is page.html with the posts in it as JSON. Only its own script and style run, and texts are shown as text.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
from pydantic import TypeAdapter

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.files import atomic
from weibotag.core.progress import bar
from weibotag.extraction.jobs import HashedFiles, PictureTask, link_files
from weibotag.features.wordings import look_up_wordings
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import read_table
from weibotag.posts.source import PostsSource
from weibotag.runtime.machine import plan_workers, worker_memory
from weibotag.runtime.pool import Limits, run_parts
from weibotag.runtime.worker import Job, alive
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.media.pictures import MediaLimits

INDEX, PICTURES = "index.html", "pictures"
# A browser holds all posts of a page at once.
MOST_POSTS = 50_000
# Pixels of the longer side of a picture, files that a worker draws at a time, seconds for one, wordings shown of a picture.
SIDE, PART_FILES, SECONDS, MOST_WORDS = 360, 16, 120.0, 40
TASKS = TypeAdapter(list[PictureTask])
# (width, height) of the frames of a file, by its sha256.
Sizes = dict[str, list[tuple[int, int]]]


class DrawnPart(TypedDict):
    """What came of a part: the sizes of its files."""

    part: str
    sizes: Sizes


@dataclass(frozen=True)
class PageSummary:
    """What was written: posts, those of POSTS without an answer, pictures, pictures that can't be shown, and the page."""

    posts: int
    without_answer: int
    pictures: int
    unshown: int
    rejects: int
    page: str


def write_page(
    source: PostsSource,
    tags: Path,
    out: Path,
    taxonomy: Taxonomy | None,
    against: Path | None = None,
    wordings: Path | None = None,
    media_root: Path | None = None,
    quiet: bool = False,
) -> PageSummary:
    """Write a page of the posts of `source` that the file `tags` answers; with labels it says what is wrong or missed.

    `against` is another file of tags: the page says which posts changed. `wordings` is what `weibotag wordings` wrote: boxes
    are drawn. Without `taxonomy` tags are called by their ids. Raises RequestError for more than `MOST_POSTS` posts.
    """
    answers, before = _read_answers(tags), {} if against is None else _read_answers(against)
    rejects, posts, absent, tables = Rejects(None), list[dict[str, Any]](), 0, list[pa.Table]()
    for table in read_posts(source, rejects):
        known = pa.array([post_id in answers for post_id in table["post_id"].to_pylist()])
        absent += len(table) - (known.true_count or 0)
        tables.append(table.filter(known))
        if sum(map(len, tables)) > MOST_POSTS:
            raise RequestError(f"over {MOST_POSTS:,} posts; a page has at most that many: --where or --limit picks some")
    if not any(map(len, tables)):
        raise NothingAcceptedError(source.path, f"none is in {tags}")
    links: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    known_files: HashedFiles = {}
    for table in tables:
        for link in link_files(table, MediaLimits(), known_files, media_root).to_pylist():
            if link["file_id"] is not None and link["file_id"] not in links.setdefault(link["post_id"], []):
                links[link["post_id"]].append(link["file_id"])
                paths[link["file_id"]] = link["path"]
    sizes = _draw_pictures(paths, out / PICTURES, quiet)
    for table in tables:
        said = [None] * len(table) if wordings is None else look_up_wordings(wordings, table["post_id"]).to_pylist()
        for post, words in zip(table.to_pylist(), said, strict=True):
            post_id = post["post_id"]
            media = [(file_id, sizes[file_id]) for file_id in links.get(post_id, []) if sizes.get(file_id)]
            posts.append(_describe(post, answers[post_id], before.get(post_id), taxonomy, media, words or []))
    names = {} if taxonomy is None else {tag.id: tag.name for tag in taxonomy.tags}
    about = {"title": tags.name, "against": against and against.name, "names": names, "posts": posts}
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / INDEX, "w") as file:
        file.write(_fill(about))
    shown = sum(map(bool, sizes.values()))
    return PageSummary(len(posts), absent, shown, len(paths) - shown, rejects.count, str(out / INDEX))


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in read_table(path):
        for row in table.select(["post_id", "tags", "keywords", "route", "evidence", "error"]).to_pylist():
            found.setdefault(row["post_id"], row)
    return found


def _describe(
    post: dict[str, Any],
    answer: dict[str, Any],
    before: dict[str, Any] | None,
    taxonomy: Taxonomy | None,
    media: Sequence[tuple[str, list[tuple[int, int]]]],
    wordings: Iterable[dict[str, Any]],
) -> dict[str, Any]:
    """Return a post as the page's script reads it: short keys, because there are many."""
    gold = post["tags"]
    if gold is not None and taxonomy is not None:
        places = {one: taxonomy.find(one) for one in gold}
        gold = sorted(taxonomy.expand(one if at is None else taxonomy.ids[at] for one, at in places.items()))
    number = {file_id: place for place, (file_id, _) in enumerate(media)}
    words: list[tuple[int, int, str, str, list[float]]] = []
    for said in [*wordings][:MOST_WORDS]:
        file_id, _, frame = (said["media_id"] or "").partition("#")
        if file_id in number and said["box"]:
            words.append((number[file_id], int(frame or 0), said["kind"], said["word"], _as_corners(said["box"])))
    evidence = [
        [one["tag_id"], one["kind"], one["word"], *_place(one, number)]
        for one in answer["evidence"] or []
        if one["word"] or one["kind"]
    ]
    found = {
        "i": post["post_id"],
        "t": post["text"],
        "a": post["author"],
        "c": post["channel"],
        "g": gold,
        "p": [[tag["id"], _round(tag["score"])] for tag in answer["tags"] or []],
        "k": [[one["keyword"], _round(one["score"]), one["source"]] for one in answer["keywords"] or []],
        "r": answer["route"],
        "e": evidence,
        "x": answer["error"],
        "m": [[file_id, size] for file_id, size in media],
        "w": words,
        "q": None if before is None else [[tag["id"], _round(tag["score"])] for tag in before["tags"] or []],
    }
    return {key: value for key, value in found.items() if value not in (None, "", []) or (key == "g" and value == [])}


def _place(evidence: dict[str, Any], number: dict[str, int]) -> list[Any]:
    """Return the picture, frame and box of evidence, nothing where it is not in a picture that is shown."""
    file_id, _, frame = (evidence["media_id"] or "").partition("#")
    if file_id not in number:
        return []
    return [number[file_id], int(frame or 0), *([_as_corners(evidence["box"])] if evidence["box"] else [])]


def _as_corners(box: Sequence[float]) -> list[float]:
    """Return x, y, width and height of a box that is so, or that is given by four corners."""
    if len(box) == 8:
        left, top = min(box[::2]), min(box[1::2])
        box = (left, top, max(box[::2]) - left, max(box[1::2]) - top)
    return [round(one, 1) for one in box]


def _round(score: float | None) -> float | None:
    return None if score is None or math.isnan(score) else round(score, 4)


def _draw_pictures(paths: dict[str, str], folder: Path, quiet: bool) -> Sizes:
    """Write small pictures of files into a folder, in worker processes, and return the sizes of what they were made of."""
    tasks = [asdict(PictureTask(path, file_id)) for file_id, path in paths.items()]
    parts = [tasks[start : start + PART_FILES] for start in range(0, len(tasks), PART_FILES)]
    workers, threads = plan_workers(None)
    workers = min(workers, len(parts))
    if not workers:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    limits = Limits(silence=SECONDS, memory=worker_memory(workers), threads=threads)
    jobs = ({"part": str(at), "folder": str(folder.absolute()), "tasks": part} for at, part in enumerate(parts))
    sizes: Sizes = {}
    with bar(len(tasks), "drawing pictures", quiet) as progress:
        for receipt in run_parts("weibotag.workflows.page:draw_part", jobs, workers, limits):
            found: Any = receipt
            sizes |= found.get("sizes", {})
            progress.advance(len(found.get("sizes", {})))
    return sizes


def draw_part(job: Job) -> DrawnPart:
    """Write the small pictures of a part, as sha256.webp, -k for the frames behind the first, and say how large each was."""
    from PIL import Image

    from weibotag.extraction.jobs import decode

    folder = Path(str(job["folder"]))
    sizes: Sizes = {}
    for task in TASKS.validate_python(job["tasks"]):
        sizes[task.file_id] = []
        for number, frame in enumerate(decode(task, MediaLimits()).frames):
            picture = Image.fromarray(frame.rgb)
            sizes[task.file_id].append(picture.size)
            picture.thumbnail((SIDE, SIDE))
            with atomic(folder / f"{task.file_id}{f'-{number}' if number else ''}.webp") as file:
                picture.save(file, "WEBP", quality=70)
        alive()
    return DrawnPart(part=str(job["part"]), sizes=sizes)


def _fill(about: dict[str, Any]) -> str:
    """Return the page with the posts in it: only its own script and style may run, and no text ends their element."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    hashes = [
        base64.b64encode(hashlib.sha256(_between(page, f"<{name}>", f"</{name}>").encode()).digest()).decode()
        for name in ("style", "script")
    ]
    policy = "default-src 'none'; img-src 'self' file:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    data = json.dumps(about, ensure_ascii=False, separators=(",", ":")).translate(INERT)
    return page.replace("{{policy}}", policy).replace("{{data}}", data.encode("utf-8", "replace").decode())


# As JSON writes them otherwise: no tag, comment or line end of scripts in it.
INERT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]

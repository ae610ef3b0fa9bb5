"""Posts for people to review, chosen for what they teach: as tasks of Label Studio or as a table, and what was decided back.

Tasks follow https://labelstud.io/guide/tasks and https://labelstud.io/guide/export: tags are a `Taxonomy` of paths of names.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow as pa

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.files import atomic
from weibotag.core.schema import STRINGS
from weibotag.curation.tags.proposals import YES
from weibotag.posts.encodings import parse_object
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import read_cells, read_table
from weibotag.posts.source import PostsSource
from weibotag.posts.writer import write_tables
from weibotag.taxonomy.tree import Taxonomy

# How doubtful a post without a tag is: as one whose surest tag has a score of .35 or .65.
UNTAGGED = 0.7
TABLE = ("post_id", "text", "images", "predicted", "scores", "why", "tags", "reviewed")
CORRECTIONS = pa.schema([("post_id", pa.string()), ("tags", STRINGS), ("annotators", pa.int32())])
RANDOM, LOCAL = "random", "/data/local-files/?d="


@dataclass(frozen=True)
class Task:
    """A post to review: its tags with scores, why it was chosen, its text, and the paths of its pictures and clips."""

    post_id: str
    tags: Sequence[tuple[str, float]]
    why: str
    text: str
    files: Sequence[str]


@dataclass(frozen=True)
class ExportSummary:
    """How many posts were written for review, how many of them drawn at random, and from how many answers; the files."""

    posts: int
    random: int
    answers: int
    out: str
    config: str | None


@dataclass(frozen=True)
class ImportSummary:
    """Posts that were reviewed, and changed; those not yet; unknown tags left out; what annotators of one post share.

    `agreement` is the mean F1 of pairs of annotators, None where no post has two; `random_micro_f1` that of the tagger on
    the reviewed posts that were drawn at random, and `random_posts` their number: what the others were chosen for is doubt.
    """

    posts: int
    changed: int
    unreviewed: int
    unknown: dict[str, int]
    agreement: float | None
    random_posts: int
    random_micro_f1: float | None
    out: str


def export_tasks(
    tags: Path, source: PostsSource, taxonomy: Taxonomy, out: Path, count: int, share: float, against: Path | None, seed: int
) -> ExportSummary:
    """Write `count` posts that the file `tags` answers for review, `share` of them drawn at random: .json, .csv or .xlsx.

    The others are those whose tags are least sure, or differ most from those in `against`, each the less the more that were
    chosen have its tags. Beside a .json lies the labelling config, .xml. Raises NothingAcceptedError for no posts.
    """
    if out.suffix.lower() not in (".json", ".csv", ".xlsx"):
        raise RequestError(f"{out}: unknown kind of file; expected .json (Label Studio), .csv or .xlsx")
    answers = {row["post_id"]: row for table in read_table(tags) for row in table.select(["post_id", "tags"]).to_pylist()}
    others = {} if against is None else _sets(against)
    asked: dict[str, dict[str, Any]] = {}
    for table in read_posts(source, Rejects(None)):
        asked |= {row["post_id"]: row for row in table.to_pylist() if row["post_id"] in answers}
    if not asked:
        raise NothingAcceptedError(source.path, f"none is in {tags}")
    found = {post_id: [(tag["id"], tag["score"]) for tag in answers[post_id]["tags"] or []] for post_id in asked}
    chosen = choose(found, others, count, share, seed)
    tasks = [
        Task(post_id, found[post_id], why, asked[post_id]["text"], [*asked[post_id]["images"], *asked[post_id]["videos"]])
        for post_id, why in chosen
    ]
    config = None
    if out.suffix.lower() == ".json":
        config = out.with_suffix(".xml")
        with atomic(config, "w") as file:
            file.write(_config(taxonomy, max((len(task.files) for task in tasks), default=0)))
        with atomic(out, "w") as file:
            json.dump([_as_task(task, taxonomy, tags.name) for task in tasks], file, ensure_ascii=False, indent=1)
    else:
        columns = zip(*map(_as_row, tasks), strict=True)
        table = pa.table([pa.array(column, pa.string()) for column in columns], list(TABLE))
        write_tables([table], out, table.schema)
    drawn = sum(task.why == RANDOM for task in tasks)
    return ExportSummary(len(tasks), drawn, len(asked), str(out), str(config) if config else None)


def choose(
    found: dict[str, list[tuple[str, float]]], others: dict[str, set[str]], count: int, share: float, seed: int
) -> list[tuple[str, str]]:
    """Return (post_id, why) of posts to review: first those drawn at random, then the most doubtful, tags taking turns.

    `found` has the tags of each post, with scores, `others` those of another tagger.
    """
    ids = list(found)
    drawn = np.random.default_rng(seed).permutation(len(ids))[: round(share * min(count, len(ids)))]
    chosen = [(ids[place], RANDOM) for place in drawn.tolist()]
    taken, had = {post_id for post_id, _ in chosen}, Counter[str]()
    doubts = {post_id: _doubt(found[post_id], others.get(post_id)) for post_id in ids if post_id not in taken}

    def worth(post_id: str) -> float:
        names = [tag for tag, _ in found[post_id]] or [""]
        return doubts[post_id][0] / float(np.sqrt(1 + min(had[name] for name in names)))

    # What a post is worth only falls, so the first whose worth has not fallen is the best.
    heap = [(-worth(post_id), place, post_id) for place, post_id in enumerate(doubts)]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        before, place, post_id = heapq.heappop(heap)
        now = -worth(post_id)
        if now > before:
            heapq.heappush(heap, (now, place, post_id))
            continue
        chosen.append((post_id, doubts[post_id][1]))
        had.update([tag for tag, _ in found[post_id]] or [""])
    return chosen


def _doubt(tags: list[tuple[str, float]], other: set[str] | None) -> tuple[float, str]:
    """Return how doubtful the tags of a post are, 0 to 1, and why."""
    unsure = max(((1 - abs(2 * score - 1), f"{tag} {score:.2f}") for tag, score in tags), default=(UNTAGGED, "no tag"))
    if other is None:
        return unsure
    own = {tag for tag, _ in tags}
    apart = 1 - len(own & other) / len(own | other) if own | other else 0.0
    return max(unsure, (apart, "taggers differ"))


def _sets(path: Path) -> dict[str, set[str]]:
    rows = (row for table in read_table(path) for row in table.select(["post_id", "tags"]).to_pylist())
    return {row["post_id"]: {tag["id"] for tag in row["tags"] or []} for row in rows}


def _path(tag: str, taxonomy: Taxonomy) -> list[str]:
    """Return the names from the channel down to a tag: as Label Studio has it."""
    number = taxonomy.index[tag]
    places = sorted({number, *taxonomy.ancestors(number)}, key=lambda one: int(taxonomy.depth[one]))
    return [taxonomy.tags[place].name for place in places]


def _as_task(task: Task, taxonomy: Taxonomy, version: str) -> dict[str, Any]:
    known = [(tag, score) for tag, score in task.tags if tag in taxonomy.index]
    value = {"taxonomy": [_path(tag, taxonomy) for tag, _ in known]}
    result = {"from_name": "tags", "to_name": "text", "type": "taxonomy", "value": value}
    score = float(np.mean([score for _, score in known])) if known else 0.0
    images = [name if "://" in name else LOCAL + quote(name) for name in task.files]
    data = {"post_id": task.post_id, "text": task.text, "images": images, "why": task.why}
    return {"data": data, "predictions": [{"model_version": version, "score": score, "result": [result] if known else []}]}


def _as_row(task: Task) -> tuple[str, ...]:
    tags = ";".join(tag for tag, _ in task.tags)
    scores = ";".join(f"{score:.2f}" for _, score in task.tags)
    return task.post_id, task.text, ";".join(task.files), tags, scores, task.why, tags, ""


def _config(taxonomy: Taxonomy, pictures: int) -> str:
    """Return the labelling config: the text, its pictures where posts have some, and the tags as a tree."""

    def write(number: int, indent: str) -> Iterator[str]:
        below = taxonomy.children(number)
        yield f"{indent}<Choice value={quoteattr(taxonomy.tags[number].name)}{'>' if below else '/>'}"
        for child in below:
            yield from write(child, f"{indent}  ")
        if below:
            yield f"{indent}</Choice>"

    roots = [number for number, parent in enumerate(taxonomy.parents) if parent < 0]
    choices = "\n".join(line for root in roots for line in write(root, "    "))
    shown = '  <Image name="images" valueList="$images"/>\n' if pictures else ""
    tree = f'  <Taxonomy name="tags" toName="text" leafsOnly="false" showFullPath="true">\n{choices}\n  </Taxonomy>\n'
    return f'<View>\n  <Header value="$post_id"/>\n  <Text name="text" value="$text"/>\n{shown}{tree}</View>\n'


def import_reviews(file: Path, taxonomy: Taxonomy, out: Path) -> ImportSummary:
    """Write what was decided as corrections (post_id, tags, annotators), which win over earlier labels.

    `file` is what Label Studio exports as JSON, or the table that was written, with yes in its column `reviewed`. Of
    several annotators of a post the tags of at least half are taken. A tag is an id, or a name that only one tag has.
    """
    unknown: Counter[str] = Counter()
    rows, pairs, unreviewed, changed = [], [], 0, 0
    right = given = wanted = drawn = 0
    for post_id, before, why, answers in _read_json(file, taxonomy) if file.suffix.lower() == ".json" else _read_rows(file):
        if not answers:
            unreviewed += 1
            continue
        sets = []
        for answer in answers:
            numbers = {name: taxonomy.find(name) for name in answer}
            unknown.update(name for name, number in numbers.items() if number is None)
            sets.append({taxonomy.ids[number] for number in numbers.values() if number is not None})
        pairs += [_f1(one, other) for one, other in combinations(sets, 2)]
        votes = Counter(tag for one in sets for tag in one)
        decided = sorted(tag for tag, times in votes.items() if 2 * times >= len(sets))
        rows.append({"post_id": post_id, "tags": decided, "annotators": len(sets)})
        old, new = taxonomy.expand(tag for tag in before if tag in taxonomy.index), taxonomy.expand(decided)
        changed += old != new
        if why == RANDOM:
            drawn, right, given, wanted = drawn + 1, right + len(old & new), given + len(old), wanted + len(new)
    if not rows:
        raise NothingAcceptedError(file, "no post is reviewed yet")
    write_tables([pa.Table.from_pylist(rows, CORRECTIONS)], out, CORRECTIONS)
    agreement = float(np.mean(pairs)) if pairs else None
    quality = 2 * right / max(1, given + wanted) if drawn else None
    return ImportSummary(len(rows), changed, unreviewed, dict(unknown), agreement, drawn, quality, str(out))


# post_id, tags before, why it was chosen, and the tags that each annotator gave.
Reviewed = tuple[str, list[str], str, list[list[str]]]


def _read_json(file: Path, taxonomy: Taxonomy) -> Iterator[Reviewed]:
    paths = {tuple(_path(tag, taxonomy)): tag for tag in taxonomy.ids}

    def name(result: Any) -> Iterator[str]:
        for path in result.get("value", {}).get("taxonomy", []) if result.get("type") == "taxonomy" else []:
            yield paths.get(tuple(map(str, path)), "/".join(map(str, path)))

    try:
        tasks = parse_object(f'{{"tasks":{file.read_text(encoding="utf-8")}}}'.replace("\n", " "))
        for task in tasks["tasks"] if isinstance(tasks, dict) else json.loads("none"):
            done = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
            given = [[tag for result in one["result"] for tag in name(result)] for one in done]
            before = [tag for one in (task.get("predictions") or [])[:1] for result in one["result"] for tag in name(result)]
            yield str(task["data"]["post_id"]), before, str(task["data"].get("why", "")), given
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{file}: no tasks that Label Studio exported as JSON ({type(error).__name__}: {error})"
        ) from error


def _read_rows(file: Path) -> Iterator[Reviewed]:
    names, records = read_cells(file, "mend this line")
    lacking = [name for name in ("post_id", "tags", "reviewed") if name not in names]
    if lacking:
        raise RequestError(f"{file} has no column {', '.join(lacking)}; expected what `weibotag review export` wrote")
    for _, cells in records:
        row = dict(zip(names, cells, strict=True))
        done = row["reviewed"].strip().lower() in YES
        tags, before = (_split(row.get(name, "")) for name in ("tags", "predicted"))
        yield row["post_id"], before, row.get("why", ""), [tags] if done else []


def _split(cell: str) -> list[str]:
    return [name.strip() for name in cell.replace("；", ";").split(";") if name.strip()]


def _f1(one: set[str], other: set[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0

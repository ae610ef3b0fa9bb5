"""Posts with gold tags, and tags that were predicted for them."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from weibotag.core import schema
from weibotag.taxonomy.tree import Tag, Taxonomy

IDS = ("食", "食/果", "食/果/苹", "食/饮", "游", "游/岛")
FOOD, FRUIT, APPLE, DRINK, TRAVEL, ISLAND = IDS
TREE = Taxonomy(Tag(tag_id, tag_id.rpartition("/")[0] or None, tag_id, (), (), 1) for tag_id in IDS)
SHARES = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "leaf_p_at_1", "p_at_5", "hierarchical_f1")


def tree(*lines: str) -> Taxonomy:
    """A taxonomy of ids, PARENT/NAME or NAME."""
    return Taxonomy(
        Tag(line, line.rpartition("/")[0] or None, line.rpartition("/")[2], (), (), number)
        for number, line in enumerate(lines, 2)
    )


def posts(*rows: dict[str, Any]) -> list[pa.Table]:
    """Every row in a table of its own, so that what is counted across tables is tried too."""
    return [pa.Table.from_pylist([row], schema=schema.arrow_schema("posts")) for row in rows]


def tags(*rows: dict[str, Any]) -> list[pa.Table]:
    return [pa.Table.from_pylist([row], schema=schema.arrow_schema("tags")) for row in rows]


def post(post_id: str, tag_ids: Iterable[str] | None, **other: Any) -> dict[str, Any]:
    return {"post_id": post_id, "text": "文", "tags": None if tag_ids is None else list(tag_ids), **other}


def answer(post_id: str, scores: Mapping[str, float | None], route: str | None = "rules") -> dict[str, Any]:
    found = [{"id": tag_id, "score": score} for tag_id, score in scores.items()]
    return {"post_id": post_id, "tags": found, "route": route, "keywords": []}


def words(post_id: str, *found: str) -> dict[str, Any]:
    ranked = [{"keyword": word, "score": 1 - at / 100, "source": "text"} for at, word in enumerate(found)]
    return {"post_id": post_id, "tags": [], "route": "rules", "keywords": ranked}


GOLD = posts(
    post("1", [APPLE]),
    post("2", [ISLAND], images=["2.jpg"]),
    post("3", [FOOD], text="", images=["3.jpg"]),
    post("4", [], text=" \n", images=[]),
    post("5", None),
    post("6", [TRAVEL, "not there"]),
)
PREDICTED = tags(
    answer("9", {FOOD: 0.9}),
    answer("5", {FOOD: 0.9}),
    answer("4", {TRAVEL: 0.2}, route=None),
    answer("3", {FRUIT: 0.4}, route="fast"),
    answer("2", {FOOD: 0.9, TRAVEL: 0.6}, route="fast"),
    answer("1", {FOOD: 0.9, FRUIT: 0.8, DRINK: 0.7}),
)

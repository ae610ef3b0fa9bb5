"""Which tags of which posts are wrong, and which are missed: a row each, with what is known of the post."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from weibotag.posts.result_files import read_table
from weibotag.posts.writer import find_format, write_tables
from weibotag.taxonomy.tree import Taxonomy

ROW = pa.schema([(name, pa.string()) for name in ("post_id", "fault", "tag")])
ROW = (
    ROW.append(pa.field("score", pa.float32()))
    .append(pa.field("text", pa.string()))
    .append(pa.field("because", pa.string()))
)
WRONG, MISSED = "wrong", "missed"


def write_errors(predicted: Path, gold: Iterable[pa.Table], taxonomy: Taxonomy, out: Path) -> int:
    """Write a row for each tag that a file of tags has and the labels do not (wrong), or the other way round (missed).

    Both with their ancestors; `because` has the words that spoke for a wrong tag. Posts that the file lacks, or that have no
    labels, are left out. Returns the number of rows.
    """
    find_format(out)
    answers = {row["post_id"]: row for table in read_table(predicted) for row in table.to_pylist()}
    tables = (pa.Table.from_pylist(list(_list_faults(table, answers, taxonomy)), ROW) for table in gold)
    return write_tables(tables, out, ROW)


def _list_faults(posts: pa.Table, answers: dict[str, Any], taxonomy: Taxonomy) -> Iterator[dict[str, Any]]:
    for post in posts.select(["post_id", "text", "tags"]).to_pylist():
        answer = answers.get(post["post_id"])
        if answer is None or post["tags"] is None:
            continue
        known = (number for word in post["tags"] if (number := taxonomy.find(word)) is not None)
        gold = taxonomy.expand(taxonomy.ids[number] for number in known)
        scores = {tag["id"]: tag["score"] for tag in answer["tags"] or []}
        found = taxonomy.expand(scores)
        about = {"post_id": post["post_id"], "text": post["text"]}
        for tag in sorted(found - gold):
            words = [one["word"] or one["kind"] for one in answer["evidence"] or [] if one["tag_id"] == tag]
            yield about | {"fault": WRONG, "tag": tag, "score": scores.get(tag), "because": ";".join(words)}
        for tag in sorted(gold - found):
            yield about | {"fault": MISSED, "tag": tag}

"""Joins what stages found in pictures to the posts that show them: one row of wordings per post."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.vision.stage import Row, Struct, Wording, stage_class

# Reasons of one post are written out up to so many; the rest is counted.
REASONS_SHOWN = 3

# Words by media_id.
WordsOfPictures = Mapping[str, Sequence[Wording]]


@dataclass(frozen=True)
class Findings:
    """What is known of the pictures of posts.

    `media` has the frames of files (schema "media"), `by_stage` what stages saw in each frame, in the schema of each,
    `vector_words` what their vectors say, `unseen` why files were not looked at, by file_id. It is a fault of a picture
    where one of the `expected` (stages; "media": any of them) has not looked.
    """

    media: pa.Table
    by_stage: Mapping[str, pa.Table]
    vector_words: WordsOfPictures
    unseen: Mapping[str, str]
    expected: Collection[str]


def collect_wordings(post_ids: list[str], links: pa.Table, findings: Findings) -> pa.Table:
    """Return a row of schema "wordings" for each of `post_ids`, in order; `links` names each post's files.

    The frames of a file speak together: what several of them say is one wording with their `count` (two faces in each of
    three frames are two wordings of count 3). A file that a post names twice speaks once.
    """
    frames: dict[str, list[Row]] = {}
    for row in findings.media.sort_by("frame").to_pylist():
        frames.setdefault(row["file_id"], []).append(row)
    seen = {stage: {row["media_id"]: row for row in table.to_pylist()} for stage, table in findings.by_stage.items()}

    @cache
    def read(file_id: str) -> tuple[list[Struct], list[str]]:
        return _read_file(file_id, frames.get(file_id, ()), seen, findings)

    words: dict[str, list[Struct]] = {}
    reasons: dict[str, list[str]] = {}
    counted: set[tuple[str, str]] = set()
    for link in links.sort_by([("post_id", "ascending"), ("position", "ascending")]).to_pylist():
        post_id, file_id = link["post_id"], link["file_id"]
        found, faults = ([], [link["link_error"]]) if file_id is None else read(file_id)
        reasons.setdefault(post_id, []).extend(f"{link['path']}: {fault}" for fault in faults)
        if (post_id, file_id) not in counted:
            words.setdefault(post_id, []).extend(found)
        counted.add((post_id, file_id))
    rows = [
        {"post_id": post_id, "wordings": words.get(post_id, []), "wordings_error": _join(reasons.get(post_id, ()))}
        for post_id in post_ids
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema("wordings"))


def _read_file(
    file_id: str, frames: Sequence[Row], seen: Mapping[str, Mapping[str, Row]], findings: Findings
) -> tuple[list[Struct], list[str]]:
    """Return the wordings of a file, and why some are lacking."""
    why = findings.unseen.get(file_id)
    if not frames:
        why = why or ("tag again" if "media" in findings.expected else None)
        return [], [] if why is None else [f"not looked at: {why}"]
    together: dict[tuple[str, str, int], dict[str, Any]] = {}
    faults: list[str] = []
    for frame in frames:
        if frame["media_error"] is not None:
            faults.append(frame["media_error"])
            continue
        media_id = frame["media_id"]
        words: list[Wording] = []
        for stage, rows in seen.items():
            row = rows.get(media_id)
            if row is not None:
                error = row[f"{stage}_error"]
                faults += [] if error is None else [f"{stage}: {error}"]
                words += stage_class(stage).words(row)
            elif stage in findings.expected:
                faults.append(f"{stage} did not look at it{f': {why}' if why else ''}")
            elif why is not None:
                faults.append(f"not looked at: {why}")
        times: Counter[tuple[str, str]] = Counter()
        for wording in (*words, *findings.vector_words.get(media_id, ())):
            word = wording.kind, wording.word
            times[word] += 1
            first = together.setdefault((*word, times[word]), wording._asdict() | {"count": 0, "media_id": media_id})
            first["count"] += 1
    return list(together.values()), list(dict.fromkeys(faults))


def _join(reasons: Iterable[str]) -> str | None:
    counted = Counter(reasons)
    if not counted:
        return None
    shown = "; ".join(list(counted)[:REASONS_SHOWN])
    left = len(counted) - REASONS_SHOWN
    return f"{shown}; and {left} more" if left > 0 else shown


def look_up_wordings(path: Path, post_ids: pa.ChunkedArray) -> pa.ListArray:
    """Return what a file that `weibotag wordings` wrote has for each of these posts, null for one that it lacks.

    Raises RequestError where it can't be read.
    """
    import duckdb

    query = "SELECT post_id, wordings FROM read_parquet(?) WHERE post_id IN (SELECT post_id FROM asked)"
    with duckdb.connect() as database:
        database.register("asked", pa.table({"post_id": post_ids}))
        try:
            found = database.sql(query, params=[str(path.absolute())]).to_arrow_table()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise RequestError(f"--wordings {path}: {reason}; expected what `weibotag wordings` writes") from error
    places = pc.index_in(post_ids.combine_chunks(), found["post_id"].combine_chunks())
    return found["wordings"].combine_chunks().take(places)

"""What the pictures of a post say, as words: back from one row per picture to one row per post."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from weibotag.core.schema import arrow_schema

FACE_WORD = "人脸"
# Reasons of one post are written out up to so many; the rest is counted.
REASONS_SHOWN = 3


def collect_wordings(
    post_ids: list[str],
    links: pa.Table,
    media: pa.Table,
    findings: dict[str, pa.Table],
    said: Mapping[str, list[tuple[str, str, float]]],
    unseen: Mapping[str, str],
    expected: Collection[str],
) -> pa.Table:
    """Return a row of schema "wordings" for each of `post_ids`, in order.

    `links` names each post's files, `media` their frames, `findings` what the stages "ocr", "detect" and "faces" saw in each
    frame (those that ran), `said` what its vector says by media_id (word, kind, score), `unseen` why files were not
    looked at, by file_id. Posts are told where one of the `expected` (stages; "media": any of them) has not looked. The
    frames of a file speak together: what several of them say is one wording with their `count` (two faces in each of three
    frames are two wordings of count 3). A file that a post names twice speaks once.
    """
    frames: dict[str, list[dict[str, Any]]] = {}
    for row in media.to_pylist():
        frames.setdefault(row["file_id"], []).append(row)
    seen = {stage: _by_media(table) for stage, table in findings.items()}
    words: dict[str, list[dict[str, Any]]] = {}
    reasons: dict[str, list[str]] = {}
    heard: set[tuple[str, str]] = set()
    for link in links.sort_by([("post_id", "ascending"), ("position", "ascending")]).to_pylist():
        post_id, file_id = link["post_id"], link["file_id"]
        if file_id is None:
            reasons.setdefault(post_id, []).append(f"{link['path']}: {link['link_error']}")
            continue
        rows = sorted(frames.get(file_id, ()), key=lambda row: row["frame"])
        if not rows:
            why = unseen.get(file_id, "tag again" if "media" in expected else None)
            if why is None:
                continue
            reasons.setdefault(post_id, []).append(f"{link['path']}: not looked at: {why}")
            continue
        again = (post_id, file_id) in heard
        heard.add((post_id, file_id))
        together: dict[tuple[str, str, int], dict[str, Any]] = {}
        for row in rows:
            if row["media_error"] is not None:
                reasons.setdefault(post_id, []).append(f"{link['path']}: {row['media_error']}")
                continue
            found, faults = _describe(row["media_id"], seen, expected)
            found += [
                _wording(word, kind, score, row["media_id"], None) for word, kind, score in said.get(row["media_id"], ())
            ]
            times: Counter[tuple[str, str]] = Counter()
            for wording in found:
                word = wording["kind"], wording["word"]
                times[word] += 1
                together.setdefault((*word, times[word]), wording)["count"] += 1
            reasons.setdefault(post_id, []).extend(f"{link['path']}: {fault}" for fault in faults)
        if not again:
            words.setdefault(post_id, []).extend(together.values())
    rows_out = [
        {"post_id": post_id, "wordings": words.get(post_id, []), "wordings_error": _join(reasons.get(post_id, ()))}
        for post_id in post_ids
    ]
    return pa.Table.from_pylist(rows_out, schema=arrow_schema("wordings"))


def _by_media(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["media_id"]: row for row in table.to_pylist()}


def _describe(
    media_id: str, seen: dict[str, dict[str, dict[str, Any]]], expected: Collection[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the wordings of one frame, and why a stage found nothing where it failed."""
    wordings: list[dict[str, Any]] = []
    faults: list[str] = []
    for stage, rows in seen.items():
        row = rows.get(media_id)
        if row is None:
            if stage in expected:
                faults.append(f"{stage} did not look at it")
            continue
        if row[f"{stage}_error"] is not None:
            faults.append(f"{stage}: {row[f'{stage}_error']}")
        if stage == "ocr":
            wordings += [
                _wording(line["text"], "ocr", line["score"], media_id, line["box"]) for line in row["ocr_lines"] or ()
            ]
        elif stage == "detect":
            wordings += _name_objects(row["detect_objects"] or (), media_id)
        elif stage == "faces":
            wordings += [
                _wording(face["name"] or FACE_WORD, "face", face["score"], media_id, face["box"])
                for face in row["faces_found"] or ()
            ]
    return wordings, faults


def _name_objects(objects: Iterable[dict[str, Any]], media_id: str) -> list[dict[str, Any]]:
    """Return the wordings of a frame's objects, best first: each label once, in Chinese where there is a name, and as is."""
    best: dict[str, dict[str, Any]] = {}
    for found in objects:
        for word in filter(None, (found["label_zh"], found["label"])):
            best.setdefault(word, _wording(word, "object", found["score"], media_id, found["box"]))
    return list(best.values())


def _wording(word: str, kind: str, score: float, media_id: str, box: list[float] | None) -> dict[str, Any]:
    return {"word": word, "kind": kind, "score": score, "count": 0, "media_id": media_id, "box": box}


def _join(reasons: Iterable[str]) -> str | None:
    counted = Counter(reasons)
    if not counted:
        return None
    shown = "; ".join(list(counted)[:REASONS_SHOWN])
    left = len(counted) - REASONS_SHOWN
    return f"{shown}; and {left} more" if left > 0 else shown

"""What the pictures of a post say, as words: back from one row per picture to one row per post."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from weibotag.schema import arrow_schema

FACE_WORD = "人脸"
# Reasons of one post are written out up to so many; the rest is counted.
REASONS_SHOWN = 3


def collect_wordings(
    post_ids: list[str],
    links: pa.Table,
    media: pa.Table,
    findings: dict[str, pa.Table],
    codes: dict[str, list[str]],
    unseen: Mapping[str, str],
) -> pa.Table:
    """Return a row of schema "wordings" for each of `post_ids`, in order.

    `links` names each post's files, `media` their frames, `findings` what the stages "ocr" and "faces" saw in each frame
    (those that ran), `codes` the visual codes by media_id, `unseen` why files were not looked at, by file_id. A word that
    several frames of one file show counts once, and a file that a post names twice speaks once.
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
            why = unseen.get(file_id, "tag again")
            reasons.setdefault(post_id, []).append(f"{link['path']}: not looked at: {why}")
            continue
        again = (post_id, file_id) in heard
        heard.add((post_id, file_id))
        known: set[tuple[str, str]] = set()
        for row in rows:
            if row["media_error"] is not None:
                reasons.setdefault(post_id, []).append(f"{link['path']}: {row['media_error']}")
                continue
            media_id = row["media_id"]
            found, faults = _describe(media_id, seen)
            found += [_wording(code, "code", 1.0, media_id, None) for code in codes.get(media_id, ())]
            fresh = [wording for wording in found if (wording["kind"], wording["word"]) not in known]
            known |= {(wording["kind"], wording["word"]) for wording in fresh if wording["kind"] != "face"}
            if not again:
                words.setdefault(post_id, []).extend(fresh)
            reasons.setdefault(post_id, []).extend(f"{link['path']}: {fault}" for fault in faults)
    rows_out = [
        {"post_id": post_id, "wordings": words.get(post_id, []), "wordings_error": _join(reasons.get(post_id, ()))}
        for post_id in post_ids
    ]
    return pa.Table.from_pylist(rows_out, schema=arrow_schema("wordings"))


def _by_media(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["media_id"]: row for row in table.to_pylist()}


def _describe(media_id: str, seen: dict[str, dict[str, dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the wordings of one frame, and why a stage found nothing where it failed."""
    wordings: list[dict[str, Any]] = []
    faults: list[str] = []
    for stage, rows in seen.items():
        row = rows.get(media_id)
        if row is None:
            faults.append(f"{stage} did not look at it")
            continue
        if row[f"{stage}_error"] is not None:
            faults.append(f"{stage}: {row[f'{stage}_error']}")
        if stage == "ocr":
            wordings += [
                _wording(line["text"], "ocr", line["score"], media_id, line["box"]) for line in row["ocr_lines"] or ()
            ]
        elif stage == "faces":
            wordings += [
                _wording(face["name"] or FACE_WORD, "face", face["score"], media_id, face["box"])
                for face in row["faces_found"] or ()
            ]
    return wordings, faults


def _wording(word: str, kind: str, score: float, media_id: str, box: list[float] | None) -> dict[str, Any]:
    return {"word": word, "kind": kind, "score": score, "media_id": media_id, "box": box}


def _join(reasons: Iterable[str]) -> str | None:
    counted = Counter(reasons)
    if not counted:
        return None
    shown = "; ".join(list(counted)[:REASONS_SHOWN])
    left = len(counted) - REASONS_SHOWN
    return f"{shown}; and {left} more" if left > 0 else shown

"""The functions that workers run: paths in, receipt out."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from weibotag.media import Frame, MediaLimits, frames_table, hash_file, read_media
from weibotag.registry import load
from weibotag.schema import arrow_schema
from weibotag.stages.stage import Stage
from weibotag.store import Store

# Files decoded ahead of the model's work: more would only fill memory.
AHEAD = 3
MEDIA_VERSION = 1


def media_fingerprint(limits: MediaLimits) -> str:
    """Return the name under which the store keeps what files hold: it changes with the limits."""
    return hashlib.sha256(f"{MEDIA_VERSION} {limits}".encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def open_stage(name: str, config: str) -> Stage:
    """Return a stage that is open; one per worker and settings (canonical JSON)."""
    stage_class: Any = load("stage", name)
    stage = stage_class(stage_class.Config.model_validate_json(config))
    stage.open()
    return stage


def look_at_files(job: dict[str, Any]) -> dict[str, Any]:
    """Look at the files of a part and keep what every stage found in the store.

    `job`: part; store: its folder; limits: of `MediaLimits`; stages: name, config (JSON), fingerprint; files: path,
    file_id, stages (names of those that have not seen it), known (whether the store has its media rows).
    The receipt counts files and frames and has seconds per stage; `changed` names files that are no longer what was hashed.
    """
    store = Store(Path(job["store"]))
    limits = MediaLimits(**job["limits"])
    stages = {entry["name"]: entry for entry in job["stages"]}
    found: dict[str, list[pa.Table]] = {name: [] for name in stages}
    seconds: dict[str, float] = dict.fromkeys(["decode", *stages], 0.0)
    counts: dict[str, int] = dict.fromkeys(stages, 0)
    media_rows: list[dict[str, Any]] = []
    changed: list[str] = []
    frames_seen = 0
    for file, rows, frames, spent in _decode_ahead(job["files"], limits):
        seconds["decode"] += spent
        if rows is None:
            changed.append(file["path"])
            continue
        if not file["known"]:
            media_rows += rows
        frames_seen += len(frames)
        if not frames:
            continue
        table = frames_table(frames)
        for name in file["stages"]:
            start = perf_counter()
            found[name].append(open_stage(name, stages[name]["config"]).process(table))
            seconds[name] += perf_counter() - start
            counts[name] += len(frames)
    for name, tables in found.items():
        if tables:
            store.write(name, stages[name]["fingerprint"], pa.concat_tables(tables))
    # Last, because a file whose media rows are there and whose findings are not is looked at again.
    if media_rows:
        rows_table = pa.Table.from_pylist(media_rows, schema=arrow_schema("media"))
        store.write("media", media_fingerprint(limits), rows_table)
    return {
        "part": job["part"],
        "files": len(job["files"]),
        "frames": frames_seen,
        "counts": counts,
        "seconds_per_stage": seconds,
        "changed": changed,
    }


def _decode_ahead(
    files: list[dict[str, Any]], limits: MediaLimits
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]] | None, list[Frame], float]]:
    """Give each file with its media rows and frames, read and decoded while the models work on the one before."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [(file, pool.submit(_decode, file, limits)) for file in files[:AHEAD]]
        left = iter(files[AHEAD:])
        while waiting:
            file, future = waiting.pop(0)
            result = future.result()
            following = next(left, None)
            if following is not None:
                waiting.append((following, pool.submit(_decode, following, limits)))
            yield file, *result


def _decode(file: dict[str, Any], limits: MediaLimits) -> tuple[list[dict[str, Any]] | None, list[Frame], float]:
    """Return media rows (None when the file is not what it was), frames, and the seconds it took."""
    start = perf_counter()
    try:
        data = Path(file["path"]).read_bytes()
    except OSError:
        return None, [], perf_counter() - start
    if hashlib.sha256(data).hexdigest() != file["file_id"]:
        return None, [], perf_counter() - start
    rows, frames = read_media(data, file["file_id"], limits)
    return rows, frames, perf_counter() - start


def link_files(table: pa.Table, limits: MediaLimits, known: dict[str, tuple[str | None, str | None]]) -> pa.Table:
    """Return a row of schema "links" for each picture of a posts table; `known` remembers the files already hashed."""
    with_pictures = table.filter(pa.compute.greater(pa.compute.list_value_length(table["images"]), 0))
    rows = []
    for post in with_pictures.select(["post_id", "images", "folder"]).to_pylist():
        for position, name in enumerate(post["images"]):
            path = name if "://" in name else str(Path(post["folder"]) / name)
            if path not in known:
                known[path] = hash_file(Path(path), limits)
            file_id, reason = known[path]
            rows.append(
                {"post_id": post["post_id"], "position": position, "path": path, "file_id": file_id}
                | {"link_error": reason}
            )
    return pa.Table.from_pylist(rows, schema=arrow_schema("links"))

"""The functions that workers run: paths in, receipt out."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.schema import arrow_schema
from weibotag.runtime.ahead import work_ahead
from weibotag.runtime.findings_store import Store
from weibotag.runtime.worker import alive
from weibotag.vision.media.near_duplicates import take_print
from weibotag.vision.media.pictures import Frame, MediaLimits, MediaRow, frames_table, hash_file, read_file
from weibotag.vision.registry import load
from weibotag.vision.stage import Stage

# Files decoded ahead of the model's work: more would only fill memory.
AHEAD = 3
MEDIA_VERSION = 2
# Frames that stages look at together, and their pixels (three bytes each).
TOGETHER = 16
TOGETHER_PIXELS = 16_000_000
Decoded = tuple[dict[str, Any], list[MediaRow] | None, list[Frame], float]


def media_fingerprint(limits: MediaLimits) -> str:
    """Return the name under which the store keeps what files hold: it changes with the limits."""
    return hashlib.sha256(f"{MEDIA_VERSION} {limits}".encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def open_stage(name: str, config: str, threads: int) -> Stage:
    """Return a stage that is open; one per worker and settings (canonical JSON)."""
    stage_class: Any = load("stage", name)
    stage = stage_class(stage_class.Config.model_validate_json(config))
    stage.open(threads)
    alive()
    return stage


def look_at_files(job: dict[str, Any]) -> dict[str, Any]:
    """Look at the files of a part and keep what every stage found in the store.

    `job`: part; store: its folder; limits: of `MediaLimits`; stages: name, config (JSON), fingerprint; threads; files: path,
    file_id, stages (names of those that have not seen it), known (whether the store has its media rows); open: stages whose
    models are loaded before the first file, whether or not a file of this part needs them.
    The receipt counts files and frames and has seconds per stage, and apart from these what loading models took; `changed`
    names files that are no longer what was hashed.
    """
    store = Store(Path(job["store"]))
    limits = MediaLimits(**job["limits"])
    stages = {entry["name"]: entry for entry in job["stages"]}
    found: dict[str, list[pa.Table]] = {name: [] for name in stages}
    seconds: dict[str, float] = dict.fromkeys(["decode", *stages], 0.0)
    counts: dict[str, int] = dict.fromkeys(stages, 0)
    media_rows: list[MediaRow] = []
    changed: list[str] = []
    loading: dict[str, float] = {}
    frames_seen = 0

    def open_timed(name: str) -> Stage:
        start = perf_counter()
        stage = open_stage(name, stages[name]["config"], job["threads"])
        loading[name] = loading.get(name, 0.0) + perf_counter() - start
        return stage

    for name in job.get("open", ()):
        open_timed(name)
    for batch in take_together(work_ahead((_decode(file, limits) for file in job["files"]), AHEAD)):
        for file, rows, frames, spent in batch:
            seconds["decode"] += spent
            frames_seen += len(frames)
            if rows is None:
                changed.append(file["path"])
            elif not file["known"]:
                media_rows += rows
        for name in stages:
            frames = [frame for file, _, frames, _ in batch if name in file["stages"] for frame in frames]
            if not frames:
                continue
            # Loading its model is no part of what a picture costs.
            stage = open_timed(name)
            start = perf_counter()
            found[name].append(stage.process(frames_table(frames)))
            seconds[name] += perf_counter() - start
            counts[name] += len(frames)
            alive()
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
        "loading": loading,
        "changed": changed,
    }


def take_prints(job: dict[str, Any]) -> dict[str, Any]:
    """Keep the prints of a part's files in the store; `job`: part, store, limits, files (path, file_id)."""
    limits = MediaLimits(**job["limits"])
    rows = []
    for file in job["files"]:
        _, _, frames, _ = _decode(file, limits)
        row = {"file_id": file["file_id"]}
        # An animation is more than its first frame.
        if len(frames) == 1:
            taken = take_print(frames[0].rgb)
            row |= {"near_hash": taken.hash, "near_ratio": taken.ratio, "near_thumbnail": taken.thumbnail}
        rows.append(row)
        alive()
    table = pa.Table.from_pylist(rows, schema=arrow_schema("near"))
    Store(Path(job["store"])).write("near", media_fingerprint(limits), table)
    return {"part": job["part"], "files": len(rows)}


def take_together(decoded: Iterable[Decoded]) -> Iterator[list[Decoded]]:
    """Give the files in order, as many at a time as make a batch for the stages; one that is larger is alone."""
    batch: list[Decoded] = []
    frames = pixels = 0
    for file in decoded:
        more = sum(frame.rgb.shape[0] * frame.rgb.shape[1] for frame in file[2])
        if batch and (frames + len(file[2]) > TOGETHER or pixels + more > TOGETHER_PIXELS):
            yield batch
            batch, frames, pixels = [], 0, 0
        batch.append(file)
        frames += len(file[2])
        pixels += more
    if batch:
        yield batch


def _decode(file: dict[str, Any], limits: MediaLimits) -> Decoded:
    """Return the file with its media rows (None when it is not what it was), its frames, and the seconds it took."""
    start = perf_counter()
    found = read_file(Path(file["path"]), file["file_id"], limits)
    rows, frames = (None, []) if found is None else found
    return file, rows, frames, perf_counter() - start


def link_files(table: pa.Table, limits: MediaLimits, known: dict[str, tuple[str | None, str | None]]) -> pa.Table:
    """Return a row of schema "links" for each file that a posts table names; `known` remembers those already hashed."""
    with_media = table.filter(pc.or_(*(pc.greater(pc.list_value_length(table[name]), 0) for name in ("images", "videos"))))
    rows = []
    for post in with_media.select(["post_id", "images", "videos", "folder"]).to_pylist():
        # Its bytes say whether a file is a picture or a clip, not the column.
        for position, name in enumerate([*post["images"], *post["videos"]]):
            path = name if "://" in name else str(Path(post["folder"]) / name)
            if path not in known:
                known[path] = hash_file(Path(path), limits)
            file_id, reason = known[path]
            rows.append(
                {"post_id": post["post_id"], "position": position, "path": path, "file_id": file_id} | {"link_error": reason}
            )
    return pa.Table.from_pylist(rows, schema=arrow_schema("links"))

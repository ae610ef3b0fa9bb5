"""The functions that workers run: paths in, receipt out."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from weibotag.core.file_names import find_name, is_address, path_of
from weibotag.core.schema import arrow_schema
from weibotag.runtime.ahead import work_ahead
from weibotag.runtime.findings_store import Store
from weibotag.runtime.worker import WORKING, Job, Receipt, alive
from weibotag.vision.media.fetched import FetchedFolder
from weibotag.vision.media.formats import reads_heic
from weibotag.vision.media.near_duplicates import take_print
from weibotag.vision.media.pictures import Frame, MediaLimits, MediaRoot, MediaRow, frames_table, hash_file, read_file
from weibotag.vision.stage import PictureStage, stage_class

# Files decoded ahead of the model's work: more would only fill memory.
AHEAD = 3
MEDIA_VERSION = 4
# Frames that stages look at together, and their pixels (three bytes each).
TOGETHER = 16
TOGETHER_PIXELS = 16_000_000


@dataclass(frozen=True)
class PictureTask:
    """A file to look at: `stages` are those that have not seen it, `known` tells whether the store has its media rows.

    `seconds` are what it is expected to take of all workers together, 0 where that does not matter.
    """

    path: str
    file_id: str
    stages: Sequence[str] = ()
    known: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class StageJob:
    """A stage as a worker opens it: `config` is JSON."""

    name: str
    config: str
    fingerprint: str


@dataclass(frozen=True)
class PictureJob:
    """What a worker is asked for: to look at `tasks` with `stages` and to keep what they find in the folder `store`.

    The models of the stages in `preload` are loaded before the first file, whether or not one of this part needs them.
    """

    part: str
    store: str
    limits: MediaLimits
    tasks: Sequence[PictureTask]
    stages: Sequence[StageJob] = ()
    threads: int = 1
    preload: Sequence[str] = ()


# By media root: that, and by path (sha256, None), or (None, why the file can't be read).
HashedFiles = dict[str, tuple[MediaRoot, dict[str, tuple[str | None, str | None]]]]
# Reads what `asdict` and JSON made of a job.
JOB = TypeAdapter(PictureJob)


class PictureReceipt(Receipt, total=False):
    """What a worker did: files, frames, frames by stage (`counts`), seconds of work by stage, and of loading models.

    `changed` names files that are no longer what was hashed.
    """

    files: int
    frames: int
    counts: dict[str, int]
    seconds_per_stage: dict[str, float]
    loading: dict[str, float]
    changed: list[str]


class Decoded(NamedTuple):
    """A file with its media rows (None: it is no longer what it was), its frames, and the seconds that took."""

    task: PictureTask
    rows: list[MediaRow] | None
    frames: list[Frame]
    seconds: float


def media_fingerprint(limits: MediaLimits) -> str:
    """Return the name under which the store keeps what files hold: it changes with the limits, and with what can be read."""
    return hashlib.sha256(f"{MEDIA_VERSION} {limits}{' heic' * reads_heic()}".encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def open_stage(name: str, config: str, threads: int) -> PictureStage[Any]:
    """Return a stage that is open; one per worker and settings (JSON)."""
    made: Any = stage_class(name)
    stage: PictureStage[Any] = made(made.Config.model_validate_json(config))
    stage.open(threads)
    alive()
    return stage


def look_at_files(job: Job) -> PictureReceipt:
    """Look at the files of a `PictureJob`, given as JSON, and keep what every stage found in the store."""
    return _Work(JOB.validate_python(job)).run()


class _Work:
    """The looking of one job: what stages found so far, and its receipt."""

    def __init__(self, job: PictureJob) -> None:
        self.job = job
        self.found: dict[str, list[pa.Table]] = {stage.name: [] for stage in job.stages}
        self.media: list[MediaRow] = []
        self.receipt = PictureReceipt(
            part=job.part,
            files=len(job.tasks),
            frames=0,
            counts=dict.fromkeys(self.found, 0),
            seconds_per_stage=dict.fromkeys(["decode", *self.found], 0.0),
            loading={},
            changed=[],
        )

    def run(self) -> PictureReceipt:
        for stage in self.job.stages:
            if stage.name in self.job.preload:
                self._open(stage)
        alive(WORKING)
        decoded = (decode(task, self.job.limits) for task in self.job.tasks)
        for batch in take_together(work_ahead(decoded, AHEAD)):
            self._note_files(batch)
            for stage in self.job.stages:
                self._look(stage, [frame for one in batch if stage.name in one.task.stages for frame in one.frames])
        self._keep()
        return self.receipt

    def _note_files(self, batch: Sequence[Decoded]) -> None:
        for task, rows, frames, seconds in batch:
            self.receipt["seconds_per_stage"]["decode"] += seconds
            self.receipt["frames"] += len(frames)
            if rows is None:
                self.receipt["changed"].append(task.path)
            elif not task.known:
                self.media += rows

    def _open(self, stage: StageJob) -> PictureStage[Any]:
        """Return a stage that is open; loading its model is no part of what a picture costs."""
        start = perf_counter()
        opened = open_stage(stage.name, stage.config, self.job.threads)
        loading = self.receipt["loading"]
        loading[stage.name] = loading.get(stage.name, 0.0) + perf_counter() - start
        return opened

    def _look(self, stage: StageJob, frames: list[Frame]) -> None:
        if not frames:
            return
        opened, start = self._open(stage), perf_counter()
        self.found[stage.name].append(opened.process(frames_table(frames)))
        self.receipt["seconds_per_stage"][stage.name] += perf_counter() - start
        self.receipt["counts"][stage.name] += len(frames)
        alive()

    def _keep(self) -> None:
        store = Store(Path(self.job.store))
        for stage in self.job.stages:
            if self.found[stage.name]:
                store.write(stage.name, stage.fingerprint, pa.concat_tables(self.found[stage.name]))
        # Last, because a file whose media rows are there and whose findings are not is looked at again.
        store.write("media", media_fingerprint(self.job.limits), pa.Table.from_pylist(self.media, arrow_schema("media")))


def take_prints(job: Job) -> PictureReceipt:
    """Keep the prints of the files of a `PictureJob`, given as JSON, in the store."""
    asked = JOB.validate_python(job)
    rows: list[dict[str, object]] = []
    for task in asked.tasks:
        frames = decode(task, asked.limits).frames
        rows.append({"file_id": task.file_id})
        # An animation is more than its first frame.
        if len(frames) == 1:
            rows[-1] |= {f"near_{name}": value for name, value in asdict(take_print(frames[0].rgb)).items()}
        alive()
    table = pa.Table.from_pylist(rows, schema=arrow_schema("near"))
    Store(Path(asked.store)).write("near", media_fingerprint(asked.limits), table)
    return PictureReceipt(part=asked.part, files=len(rows))


def take_together(decoded: Iterable[Decoded]) -> Iterator[list[Decoded]]:
    """Give the files in order, as many at a time as make a batch for the stages; one that is larger is alone."""
    batch: list[Decoded] = []
    frames = pixels = 0
    for file in decoded:
        more = sum(frame.rgb.shape[0] * frame.rgb.shape[1] for frame in file.frames)
        if batch and (frames + len(file.frames) > TOGETHER or pixels + more > TOGETHER_PIXELS):
            yield batch
            batch, frames, pixels = [], 0, 0
        batch.append(file)
        frames += len(file.frames)
        pixels += more
    if batch:
        yield batch


def decode(task: PictureTask, limits: MediaLimits) -> Decoded:
    """Read the file of a task."""
    start = perf_counter()
    found = read_file(path_of(task.path), task.file_id, limits)
    rows, frames = (None, []) if found is None else found
    return Decoded(task, rows, frames, perf_counter() - start)


def link_files(
    table: pa.Table,
    limits: MediaLimits,
    known: HashedFiles,
    media_root: Path | None = None,
    fetched: FetchedFolder | None = None,
) -> pa.Table:
    """Return a row of schema "links" for each file that a posts table names; `known` remembers those already hashed.

    Files outside of `media_root` (None: of the folder of the post's own file) are not opened, but for those `fetched`.
    """
    with_media = table.filter(pc.or_(*(pc.greater(pc.list_value_length(table[name]), 0) for name in ("images", "videos"))))
    rows = []
    for post in with_media.select(["post_id", "images", "videos", "folder"]).to_pylist():
        # Its bytes say whether a file is a picture or a clip, not the column.
        folder = str(media_root or path_of(post["folder"]))
        if folder not in known:
            known[folder] = MediaRoot(folder), {}
        root, hashed = known[folder]
        for position, name in enumerate([*post["images"], *post["videos"]]):
            place = fetched.locate(name) if fetched else None
            path, own, reason = place or (name if is_address(name) else find_name(post["folder"], name), root, None)
            # What was fetched by its address, because no post may name that file as one of its own.
            key = name if place else path
            if key not in hashed:
                hashed[key] = (None, reason) if reason else hash_file(path_of(path), limits, own)
            file_id, reason = hashed[key]
            rows.append(
                {"post_id": post["post_id"], "position": position, "path": path, "file_id": file_id} | {"link_error": reason}
            )
    return pa.Table.from_pylist(rows, schema=arrow_schema("links"))

"""How pictures are looked at: stages, store, workers, limits, fixed before a run begins; and what it took and came to."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.schema import arrow_schema
from weibotag.extraction.coverage import Coverage, mark_files
from weibotag.extraction.jobs import PictureReceipt, PictureTask, media_fingerprint
from weibotag.extraction.settings import Pipeline, describe_stage
from weibotag.runtime.findings_store import Store, default_root
from weibotag.runtime.machine import WORKER_BYTES, plan_workers, worker_memory
from weibotag.vision.face_gallery import open_gallery
from weibotag.vision.faces import Faces
from weibotag.vision.media.pictures import MediaLimits
from weibotag.vision.stage import FINGERPRINT_LENGTH, PictureStage, TrainedLooks, hash_weights, stage_class

NOT_AGAIN = "it is not tried again within these limits"
CHANGED = "it changed or vanished after it was found"
# What the start of a process goes by, where models go by their stages.
WORKER = "worker"
# Setbacks that the summary has; the receipts have them all.
SETBACKS_SHOWN = 5


class RepostCounts(TypedDict, total=False):
    """Where reposts were sought: how many files are, how many of them were looked at anyway, how many of those agreed."""

    reposts: int
    checked: int
    agreed: int


class PictureCounts(RepostCounts):
    """Files that posts name, those known before, those that could not be looked at; setbacks of workers, the first ones."""

    files: int
    reused: int
    failed: int
    setbacks: int
    first_setbacks: list[str]


class LooksRequest(TypedDict):
    """What findings depend on besides the pictures: fingerprints of stages and of media rows, the gallery by its hash."""

    fingerprints: dict[str, str]
    media: str
    reuse: str
    words: dict[str, str]
    gallery: str | None
    media_root: str | None
    fetch: str | None


class LookSummary(TypedDict):
    """Counts of files, frames and seconds by stage."""

    pictures: PictureCounts
    frames_per_stage: dict[str, int]
    seconds_per_stage: dict[str, float]


@dataclass
class ExtractionStats:
    """Counts of `files` and of those `reused` (known before); seconds of work and frames by stage.

    `loading` has the most seconds that a process took to load the model of a stage, and to start (`WORKER`). `unseen` says,
    by file_id, why files could not be looked at, `faults` the same in one line for people; `setbacks` what befell workers;
    `reposts` what came of them where they were sought; `late` that looking ended before it was done. `coverage` is what is
    known of all files of a run that looks at some only.
    """

    files: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    setbacks: list[str] = field(default_factory=list)
    reposts: RepostCounts = field(default_factory=RepostCounts)
    late: bool = False
    coverage: Coverage | None = None

    def add(self, receipt: PictureReceipt, tasks: Sequence[PictureTask]) -> None:
        """Add up what a receipt for some tasks says."""
        for stage, seconds in receipt.get("seconds_per_stage", {}).items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for stage, frames in receipt.get("counts", {}).items():
            self.frames[stage] = self.frames.get(stage, 0) + frames
        for stage, seconds in receipt.get("loading", {}).items():
            self.loading[stage] = max(seconds, self.loading.get(stage, 0.0))
        changed = set(receipt.get("changed", ()))
        self.unseen |= {task.file_id: CHANGED for task in tasks if task.path in changed}

    def fail(self, task: PictureTask, reason: str) -> None:
        """Put down that a file could not be looked at."""
        self.unseen[task.file_id] = reason
        self.faults[task.file_id] = f"{task.path}: {reason}"

    def prices(self, stages: Iterable[str], workers: int) -> dict[str, float]:
        """Return the milliseconds that stages take for a picture, decoding it included, with all workers together.

        By the seconds and frames of what was looked at; `nominal_ms` of a stage that has not looked at any.
        """
        decoding = self.seconds.get("decode", 0.0) / max(1, *self.frames.values(), 1)
        return {
            stage: 1000 * (self.seconds[stage] / self.frames[stage] + decoding) / max(1, workers)
            if self.frames.get(stage)
            else stage_class(stage).nominal_ms
            for stage in stages
        }

    def summary(self) -> LookSummary:
        """Return what receipts have of it."""
        return {
            "pictures": {
                "files": self.files,
                "reused": self.reused,
                "failed": len(self.faults),
                **self.reposts,
                "setbacks": len(self.setbacks),
                "first_setbacks": self.setbacks[:SETBACKS_SHOWN],
            },
            "frames_per_stage": {name: count for name, count in self.frames.items() if count},
            "seconds_per_stage": {name: round(value, 3) for name, value in self.seconds.items()},
        }


@dataclass(frozen=True)
class ExtractionContext:
    """How pictures are looked at: `workers` processes of `threads` each, `fingerprints` of the stages by name.

    `deadline` is when looking ends, whatever is left (perf_counter; None: never). `partial` tells that a run looks at some
    pictures only, so that one that nothing has looked at is no fault of its posts. `stats` add up what looking came to.
    """

    pipeline: Pipeline
    store: Store
    limits: MediaLimits
    stages: Mapping[str, PictureStage[Any]]
    workers: int
    threads: int
    quiet: bool = False
    deadline: float | None = None
    partial: bool = False
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    stats: ExtractionStats = field(default_factory=ExtractionStats)

    @property
    def media(self) -> str:
        """Return the fingerprint of the media rows."""
        return media_fingerprint(self.limits)

    @property
    def worker_memory(self) -> int:
        """Return the bytes that a worker may take."""
        given = self.pipeline.workers.memory_mb
        return worker_memory(self.workers) if given is None else given * 2**20

    @property
    def limited(self) -> str:
        """Return the fingerprint of how much a picture may take, under which those are kept that take more."""
        limits = [self.media, self.pipeline.workers.picture_seconds, self.worker_memory, dict(self.fingerprints)]
        return hashlib.sha256(json.dumps(limits, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_LENGTH]

    def remember_setback(self, task: PictureTask, reason: str) -> None:
        """Keep in the store that a file stopped a worker, so that it is not tried again within the same limits."""
        self.stats.unseen[task.file_id] = f"{reason}; {NOT_AGAIN}"
        row = {"file_id": task.file_id, "setback": reason}
        self.store.write("setbacks", self.limited, pa.Table.from_pylist([row], arrow_schema("setbacks")))

    def leave_setbacks(self, tasks: Sequence[PictureTask]) -> list[PictureTask]:
        """Return the files to look at without those that stopped a worker before, whose reason the stats get."""
        rows = self.store.scan("setbacks", self.limited, ["file_id", "setback"]).to_pylist()
        known = {row["file_id"]: f"{row['setback']}; {NOT_AGAIN}" for row in rows}
        self.stats.unseen |= {task.file_id: known[task.file_id] for task in tasks if task.file_id in known}
        return [task for task in tasks if task.file_id not in known]

    @property
    def every_bit(self) -> int:
        """Return the bits of all stages, the first the lowest."""
        return (1 << len(self.fingerprints)) - 1

    @property
    def tables(self) -> dict[str, str]:
        """Return the fingerprints of all that looking writes to the store, by table."""
        return {"media": self.media, **self.fingerprints}

    def ask_store(self, file_ids: pa.Array) -> Coverage:
        """Return what the store knows of distinct files; the order of the stages is that of `fingerprints`."""
        media = self.store.read("media", self.media, file_ids)
        frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
        missing = (self.store.missing(name, mark, frames) for name, mark in self.fingerprints.items())
        return mark_files(file_ids, media, missing)

    def is_late(self) -> bool:
        """Tell whether the time for looking is up, and put it down."""
        self.stats.late = self.stats.late or (self.deadline is not None and perf_counter() > self.deadline)
        return self.stats.late

    def request(self) -> LooksRequest:
        """Return, for JSON, what findings depend on besides the pictures: a run of another request is another run."""
        gallery = self.pipeline.gallery
        return {
            "fingerprints": dict(self.fingerprints),
            "media": self.media,
            "reuse": self.pipeline.reuse,
            "words": {str(kind): column for kind, column in self.pipeline.words.items()},
            "gallery": None if gallery is None else hash_weights(gallery),
            "media_root": None if self.pipeline.media_root is None else str(self.pipeline.media_root.absolute()),
            "fetch": None if self.pipeline.fetch is None else str(self.pipeline.fetch.absolute()),
        }

    def describe(self) -> TrainedLooks:
        """Return, for JSON, how pictures are looked at, so that whoever uses a model can look as its training did."""
        return {
            "stages": {name: describe_stage(stage.config) for name, stage in self.stages.items()},
            "fingerprints": dict(self.fingerprints),
            "media": self.pipeline.media.model_dump(mode="json"),
            "words": {str(kind): column for kind, column in self.pipeline.words.items()},
        }


def open_context(
    pipeline: Pipeline,
    store: Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
    *,
    deadline: float | None = None,
    partial: bool = False,
) -> ExtractionContext:
    """Return how the pipeline looks at pictures; nothing is loaded yet."""
    stages = {name: pipeline.make_stage(name) for name in pipeline.stages}
    faces = stages.get("faces")
    if pipeline.gallery is not None and isinstance(faces, Faces):
        open_gallery(pipeline.gallery).check_model(faces.face_model())
    needed = WORKER_BYTES * (2 if any(stage.by_torch for stage in stages.values()) else 1)
    return ExtractionContext(
        pipeline,
        Store(store or pipeline.store or default_root()),
        MediaLimits(**pipeline.media.model_dump()),
        stages,
        *plan_workers(pipeline.workers.count if workers is None else workers, needed),
        quiet,
        deadline,
        partial,
        {name: stage.fingerprint() for name, stage in stages.items()},
    )

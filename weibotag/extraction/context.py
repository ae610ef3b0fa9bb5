"""What a run needs to look at pictures: stages, store, workers, limits."""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from weibotag.extraction.jobs import media_fingerprint
from weibotag.extraction.settings import Pipeline
from weibotag.runtime.findings_store import Store, default_root
from weibotag.runtime.machine import plan_workers
from weibotag.vision.face_gallery import open_gallery
from weibotag.vision.media.pictures import MediaLimits
from weibotag.vision.stage import Stage, hash_weights

CHANGED = "it changed or vanished after it was found"
# What the start of a process goes by, where models go by their stages.
WORKER = "worker"
# Setbacks that the summary tells; the receipts have them all.
SETBACKS_SHOWN = 5


@dataclass
class ExtractionContext:
    """How pictures are looked at, and what it took: `seconds` and `frames` by stage, and counts of files.

    `loading` has the most seconds that a process took to load the model of a stage, and to start (`WORKER`).
    `unseen` says, by id, which files could not be looked at, and why; `setbacks` what befell workers, in one line each.
    `deadline` is when looking ends, whatever is left (perf_counter; None: never), and `late` whether it came to that. Of a
    run that is `sparing`, or late, pictures that nothing has looked at are no fault of their posts.
    """

    store: Store
    limits: MediaLimits
    stages: dict[str, Stage]
    workers: int
    threads: int
    pipeline: Pipeline
    quiet: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    files: int = 0
    reused: int = 0
    failed: int = 0
    near: dict[str, int] | None = None
    unseen: dict[str, str] = field(default_factory=dict)
    deadline: float | None = None
    late: bool = False
    sparing: bool = False
    setbacks: list[str] = field(default_factory=list)

    @property
    def media(self) -> str:
        """Return the fingerprint of the media rows."""
        return media_fingerprint(self.limits)

    def is_late(self) -> bool:
        """Tell whether the time for looking is up; remembered in `late`."""
        self.late = self.late or (self.deadline is not None and perf_counter() > self.deadline)
        return self.late

    def request(self) -> dict[str, Any]:
        """Return all that what is found depends on besides the pictures: a run of another request is another run."""
        gallery = self.pipeline.gallery
        return {
            "fingerprints": self.fingerprints,
            "media": self.media,
            "reuse": self.pipeline.reuse,
            "words": dict(self.pipeline.words),
            "gallery": None if gallery is None else hash_weights(gallery),
        }

    def summary(self) -> dict[str, Any]:
        """Return what looking took, for receipts: `pictures`, `frames_per_stage`, `seconds_per_stage`."""
        pictures = {"files": self.files, "reused": self.reused, "failed": self.failed}
        if self.near is not None:
            pictures |= self.near
        return {
            "pictures": pictures | {"setbacks": len(self.setbacks), "first_setbacks": self.setbacks[:SETBACKS_SHOWN]},
            "frames_per_stage": self.frames,
            "seconds_per_stage": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def open_context(
    pipeline: Pipeline, store: Path | None = None, workers: int | None = None, quiet: bool = False
) -> ExtractionContext:
    """Return how the pipeline looks at pictures; nothing is loaded yet."""
    stages = {name: pipeline.make_stage(name) for name in pipeline.stages}
    count, threads = plan_workers(pipeline.workers.count if workers is None else workers)
    context = ExtractionContext(
        Store(store or pipeline.store or default_root()),
        MediaLimits(**pipeline.media.model_dump()),
        stages,
        count,
        threads,
        pipeline,
        quiet,
    )
    context.fingerprints = {name: stage.fingerprint() for name, stage in stages.items()}
    faces: Any = stages.get("faces")
    if pipeline.gallery is not None and faces is not None:
        open_gallery(pipeline.gallery).check_model(faces.face_model())
    return context

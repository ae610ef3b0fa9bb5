"""How pictures are looked at: stages, store, workers, limits; fixed before a run begins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from weibotag.extraction.jobs import media_fingerprint
from weibotag.extraction.settings import Pipeline
from weibotag.runtime.findings_store import Store, default_root
from weibotag.runtime.machine import plan_workers
from weibotag.vision.face_gallery import open_gallery
from weibotag.vision.faces import Faces
from weibotag.vision.media.pictures import MediaLimits
from weibotag.vision.stage import PictureStage, hash_weights


@dataclass(frozen=True)
class ExtractionContext:
    """How pictures are looked at: `workers` processes of `threads` each, `fingerprints` of the stages by name.

    `deadline` is when looking ends, whatever is left (perf_counter; None: never). `partial` tells that a run looks at some
    pictures only, so that one that nothing has looked at is no fault of its posts.
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

    @property
    def media(self) -> str:
        """Return the fingerprint of the media rows."""
        return media_fingerprint(self.limits)

    @property
    def every_bit(self) -> int:
        """Return the bits of all stages, the first the lowest."""
        return (1 << len(self.fingerprints)) - 1

    def is_late(self) -> bool:
        """Tell whether the time for looking is up."""
        return self.deadline is not None and perf_counter() > self.deadline

    def request(self) -> dict[str, Any]:
        """Return, for JSON, what findings depend on besides the pictures: a run of another request is another run."""
        gallery = self.pipeline.gallery
        return {
            "fingerprints": dict(self.fingerprints),
            "media": self.media,
            "reuse": self.pipeline.reuse,
            "words": dict(self.pipeline.words),
            "gallery": None if gallery is None else hash_weights(gallery),
        }

    def describe(self) -> dict[str, Any]:
        """Return, for JSON, how pictures are looked at, so that whoever uses a model can look as its training did."""
        return {
            "stages": {name: stage.config.model_dump(mode="json") for name, stage in self.stages.items()},
            "fingerprints": dict(self.fingerprints),
            "media": self.pipeline.media.model_dump(mode="json"),
            "words": dict(self.pipeline.words),
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
    return ExtractionContext(
        pipeline,
        Store(store or pipeline.store or default_root()),
        MediaLimits(**pipeline.media.model_dump()),
        stages,
        *plan_workers(pipeline.workers.count if workers is None else workers),
        quiet,
        deadline,
        partial,
        {name: stage.fingerprint() for name, stage in stages.items()},
    )

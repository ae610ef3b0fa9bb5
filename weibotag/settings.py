"""Pipeline files (TOML) to settings; every default is that of the embedded pipeline `lite`."""

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weibotag.errors import RequestError
from weibotag.registry import load, names
from weibotag.stages.stage import Stage

# The keys of a pipeline that decide how pictures are looked at.
LOOKS = ("stages", "ocr", "faces", "embed", "media")


class Strict(BaseModel):
    """Settings that know all their keys and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MediaSettings(Strict):
    """Which files are read: bytes and pixels at most, and how many frames of an animation are looked at."""

    max_bytes: int = Field(default=50_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_frames: int = Field(default=3, ge=1, le=16)


class WorkerSettings(Strict):
    """Child processes: how many (null: one per core), how many parts each lives for, files per part, seconds per part."""

    count: int | None = Field(default=None, ge=0)
    recycle: int = Field(default=50, ge=1)
    part_files: int = Field(default=32, ge=1)
    part_seconds: float = Field(default=600, gt=0)


class TrainSettings(Strict):
    """What `run` trains: paths as on the command line, relative to the pipeline file."""

    posts: str
    taxonomy: Path
    model: Path
    where: str | None = None
    valid: str | None = None
    columns: dict[str, str] = {}
    tune_seconds: float = Field(default=120, ge=0)


class TagSettings(Strict):
    """What `run` tags; one of model and taxonomy is needed, paths relative to the pipeline file."""

    posts: str
    out: Path
    model: Path | None = None
    taxonomy: Path | None = None
    route: Literal["rules", "fast"] | None = None
    where: str | None = None
    columns: dict[str, str] = {}
    max_rejects: int | None = Field(default=None, ge=0)
    run: Path | None = None


class Pipeline(Strict):
    """A whole pipeline: the stages that look at pictures with their settings, workers, and what `run` does."""

    stages: tuple[str, ...] = ("ocr", "faces", "embed")
    ocr: dict[str, Any] = {}
    faces: dict[str, Any] = {}
    embed: dict[str, Any] = {}
    media: MediaSettings = MediaSettings()
    workers: WorkerSettings = WorkerSettings()
    store: Path | None = None
    train: TrainSettings | None = None
    tag: TagSettings | None = None

    def make_stage(self, name: str) -> Stage:
        """Return the stage `name` with its settings; raises RequestError for an unknown name or setting."""
        stage: Any = load("stage", name)
        config_class = stage.Config
        try:
            return stage(config_class(**getattr(self, name, {})))
        except ValidationError as error:
            raise RequestError(_explain(error, config_class, f"[{name}]")) from error

    def look_alike(self, other: "Pipeline") -> "Pipeline":
        """Return this pipeline with all that decides how pictures are looked at taken from another."""
        return self.model_copy(update={name: getattr(other, name) for name in LOOKS})

    def says_how_to_look(self) -> bool:
        """Tell whether anything that decides how pictures are looked at was given."""
        return bool(self.model_fields_set.intersection(LOOKS))

    def worker_count(self) -> int:
        """Return how many child processes look at pictures."""
        return len(os.sched_getaffinity(0)) if self.workers.count is None else self.workers.count


def read_pipeline(name: str | None) -> Pipeline:
    """Return the pipeline called `lite` (also for None), or the one in a TOML file.

    Raises RequestError for a file that is absent or is no TOML, and for a key or value that does not fit.
    """
    if name is None or name == "lite":
        return Pipeline()
    path = Path(name)
    if not path.is_file():
        raise RequestError(f"{name}: no such pipeline; expected lite or the path of a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{name}: not TOML: {error}") from error
    try:
        pipeline = Pipeline(**data)
    except ValidationError as error:
        raise RequestError(_explain(error, Pipeline, name)) from error
    for stage in dict.fromkeys([*pipeline.stages, *(name for name in names("stage") if getattr(pipeline, name, None))]):
        pipeline.make_stage(stage)
    if pipeline.store is None:
        return pipeline
    return pipeline.model_copy(update={"store": path.resolve().parent / pipeline.store})


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first fault in one line, with the nearest known key for an unknown one."""
    # A key that is missing may only be misspelt.
    fault = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(step) for step in fault["loc"]]
    for step in place[:-1]:
        inner = model.model_fields[step].annotation if step in model.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), model)
    if fault["type"] != "extra_forbidden":
        return f"{where}: {'.'.join(place)}: {fault['msg']}; found {fault['input']!r}"
    known = list(model.model_fields)
    near = get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown key {'.'.join(place)!r}; {hint}"

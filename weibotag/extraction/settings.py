"""Pipeline files (TOML) to settings; every default is that of the embedded pipeline `lite`."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weibotag.core.errors import ModelError, RequestError
from weibotag.taxonomy.tree import load as load_taxonomy
from weibotag.vision.prompt_classes import list_classes
from weibotag.vision.registry import names
from weibotag.vision.stage import Stage, stage_class

# Pipelines that have a name; `lite` is what every default says.
NAMED = ("full", "gpu")
# The keys of a pipeline that decide how pictures are looked at.
LOOKS = ("stages", "stage_settings", "media")

# Kinds of words that a platform may have for its pictures already.
Given = Literal["ocr", "object", "face", "clip"]


class Strict(BaseModel):
    """Settings that know all their keys and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MediaSettings(Strict):
    """Which files are read: bytes and pixels at most, and how many frames of an animation or a clip are looked at."""

    max_bytes: int = Field(default=50_000_000, ge=1)
    max_clip_bytes: int = Field(default=1_000_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_frames: int = Field(default=4, ge=1, le=16)


class WorkerSettings(Strict):
    """Child processes: how many (null: by cores and memory), how many parts each lives for, files per part.

    A worker that gives no sign of life for `picture_seconds`, or takes more than `memory_mb` (null: by the machine), is
    replaced; its pictures are looked at again one by one.
    """

    count: int | None = Field(default=None, ge=0)
    recycle: int = Field(default=50, ge=1)
    part_files: int = Field(default=32, ge=1)
    picture_seconds: float = Field(default=60, gt=0)
    memory_mb: int | None = Field(default=None, ge=100)


class TrainSettings(Strict):
    """What `run` trains: paths as on the command line, relative to the pipeline file."""

    posts: str
    taxonomy: Path
    model: Path
    where: str | None = None
    valid: str | None = None
    columns: dict[str, str] = {}
    tune_seconds: float = Field(default=120, ge=0)
    tagger: Literal["fast", "xmc", "auto", "fused", "cascade"] = "fast"
    memory: str | None = None
    network: str = "concat"
    minutes: float | None = Field(default=None, ge=0)
    tasks: dict[str, str] = {}
    encoder: str = ""
    encoder_training: Literal["frozen", "full", "lora"] = "frozen"


class TagSettings(Strict):
    """What `run` tags; one of model and taxonomy is needed, paths relative to the pipeline file."""

    posts: str
    out: Path
    model: Path | None = None
    taxonomy: Path | None = None
    route: Literal["rules", "fast", "xmc", "average", "text", "fused", "cascade"] | None = None
    plan: Path | None = None
    deadline: str | None = None
    where: str | None = None
    columns: dict[str, str] = {}
    max_rejects: int | None = Field(default=None, ge=0)
    run: Path | None = None


class Pipeline(Strict):
    """A whole pipeline: the stages that look at pictures with their settings, workers, and what `run` does.

    `stage_settings` has the tables that bear the names of registered stages, such as [ocr].
    `words` names columns of the posts that hold words for the pictures, by the kind of wording that they become.
    """

    stages: tuple[str, ...] = ("ocr", "faces", "embed")
    stage_settings: dict[str, dict[str, Any]] = {}
    media: MediaSettings = MediaSettings()
    workers: WorkerSettings = WorkerSettings()
    store: Path | None = None
    reuse: Literal["exact", "near"] = "exact"
    gallery: Path | None = None
    words: dict[Given, str] = {}
    train: TrainSettings | None = None
    tag: TagSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_stage_tables(cls, data: dict[str, Any]) -> dict[str, Any]:
        own = {name: data[name] for name in names("stage") if name in data}
        rest = {name: value for name, value in data.items() if name not in own}
        return rest | {"stage_settings": own} if own else rest

    def make_stage(self, name: str) -> Stage:
        """Return the stage `name` with its settings; raises RequestError for an unknown name or setting."""
        stage: Any = stage_class(name)
        try:
            made: Stage = stage(stage.Config(**self.stage_settings.get(name, {})))
        except ValidationError as error:
            raise RequestError(_explain(error, stage.Config, f"[{name}]")) from error
        return made

    def with_stage(self, name: str, said: dict[str, Any]) -> "Pipeline":
        """Return a pipeline of one stage, with these settings of it before its own."""
        own = complete(self.stage_settings.get(name, {}) | said, Path.cwd())
        return self.model_copy(update={"stages": (name,), "stage_settings": self.stage_settings | {name: own}})

    def with_looks(self, gallery: Path | None, reuse: str | None) -> "Pipeline":
        """Return this pipeline with another gallery and another answer to which pictures are the same, where given."""
        given = {"gallery": gallery, "reuse": reuse if reuse is None else str(reuse)}
        return self.model_copy(update={name: value for name, value in given.items() if value is not None})

    def with_words(self, words: dict[str, str]) -> "Pipeline":
        """Return this pipeline with these columns of words before its own; raises RequestError for an unknown kind."""
        for kind in words:
            if kind not in get_args(Given):
                raise RequestError(
                    f"--words {kind}={words[kind]}: expected one of {', '.join(get_args(Given))} before the ="
                )
        return self.model_copy(update={"words": {**self.words, **words}})

    def for_rules(self) -> "Pipeline":
        """Return this pipeline without picture vectors, unless they say something without a codebook."""
        if "embed" not in self.stages or getattr(self.make_stage("embed"), "reads_texts", False):
            return self
        return self.model_copy(update={"stages": tuple(stage for stage in self.stages if stage != "embed")})

    def look_alike(self, other: "Pipeline") -> "Pipeline":
        """Return this pipeline with all that decides how pictures are looked at taken from another."""
        return self.model_copy(update={name: getattr(other, name) for name in LOOKS})

    def says_how_to_look(self) -> bool:
        """Tell whether anything that decides how pictures are looked at was given."""
        return bool(self.model_fields_set.intersection(LOOKS))


def look_as_trained(settings: Pipeline, about: dict[str, Any]) -> Pipeline:
    """Return a pipeline that looks at pictures as a training did, by what its model.json or match.json says.

    Where `settings` say how to look they stay: see `check_looks`.
    """
    settings = settings.with_words(about.get("words", {}) | settings.words)
    if settings.says_how_to_look():
        return settings
    return settings.look_alike(Pipeline(stages=tuple(about["stages"]), **about["stages"], media=about["media"]))


def check_looks(settings: Pipeline, about: dict[str, Any], model: Path) -> None:
    """Raise ModelError where a pipeline does not look at pictures as a model's training did."""
    media = MediaSettings(**about["media"])
    if settings.media != media:
        raise ModelError(f"{model}: was trained with {media!r}, here it is {settings.media!r}: use the same [media]")
    for name, fingerprint in about["fingerprints"].items():
        found = settings.make_stage(name).fingerprint() if name in settings.stages else "absent"
        if found != fingerprint:
            raise ModelError(
                f"{model}: was trained on {name}-{fingerprint}, here it is {found}: "
                "use the pipeline and package versions of the training, or train again"
            )


def read_pipeline(name: str | None) -> Pipeline:
    """Return the pipeline called `lite` (also for None), `full` or `gpu`, or the one in a TOML file.

    Raises RequestError for a file that is absent or is no TOML, and for a key or value that does not fit.
    """
    if name is None or name == "lite":
        return Pipeline()
    here = Path(__file__).parents[1]
    # Beside the code where it was installed, above it in a clone.
    own = [folder / "pipelines" / f"{name}.toml" for folder in (here, here.parent)]
    path = next((path for path in own if name in NAMED and path.is_file()), Path(name))
    if not path.is_file():
        raise RequestError(f"{name}: no such pipeline; expected lite, {', '.join(NAMED)} or the path of a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{name}: not TOML: {error}") from error
    try:
        pipeline = Pipeline(**data)
    except ValidationError as error:
        raise RequestError(_explain(error, Pipeline, name)) from error
    folder = path.resolve().parent
    if pipeline.stage_settings:
        whole = {name: complete(settings, folder) for name, settings in pipeline.stage_settings.items()}
        pipeline = pipeline.model_copy(update={"stage_settings": whole})
    for stage in dict.fromkeys([*pipeline.stages, *pipeline.stage_settings]):
        pipeline.make_stage(stage)
    given = {name: folder / getattr(pipeline, name) for name in ("store", "gallery") if getattr(pipeline, name)}
    return pipeline.model_copy(update=given)


def complete(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings of a stage made whole: paths from `folder`, and the classes of a `branch` of a `taxonomy`."""
    whole = dict(settings)
    model, mark, digest = str(whole.get("model", "")).partition("#")
    if model and (folder / model).exists():
        whole["model"] = f"{folder / model}{mark}{digest}"
    if "branch" in whole or "taxonomy" in whole:
        branch, taxonomy = whole.pop("branch", None), whole.pop("taxonomy", None)
        if not (isinstance(branch, str) and isinstance(taxonomy, str)):
            raise RequestError("[detect]: branch and taxonomy go together: a tag's name or id, and the file of its tag tree")

        classes = list_classes(load_taxonomy(folder / taxonomy), branch)
        whole["classes"] = tuple(f"{prompt}={label}" for prompt, label in classes)
    return whole


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first fault in one line, with the nearest known key for an unknown one."""
    # A key that is missing may only be misspelt.
    fault = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(step) for step in fault["loc"] if step != "stage_settings"]
    for step in place[:-1]:
        inner = model.model_fields[step].annotation if step in model.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), model)
    if fault["type"] != "extra_forbidden":
        return f"{where}: {'.'.join(place)}: {fault['msg']}; found {fault['input']!r}"
    known = [name for name in model.model_fields if name != "stage_settings"]
    known += names("stage") if model is Pipeline else []
    near = get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown key {'.'.join(place)!r}; {hint}"

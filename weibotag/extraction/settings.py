"""How pictures are looked at: a pipeline and its settings; every default is that of the embedded pipeline `lite`."""

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.kinds import KINDS, LISTED
from weibotag.taxonomy.reader import find_shipped
from weibotag.vision.media.manners import WebSettings
from weibotag.vision.registry import MOST_CHARACTERS, USE, load, names
from weibotag.vision.weights.catalogue import HUB, pin, refuse_unpinned

if TYPE_CHECKING:
    from weibotag.vision.stage import PictureStage, StageConfig, TrainedLooks

log = logging.getLogger(__name__)

# The keys of a pipeline that decide how pictures are looked at.
LOOKS = ("stages", "stage_settings", "media")

# The settings of a stage, as TOML and JSON hold them: each stage knows its own.
StageTable = dict[str, object]
# What may stand for the name of weights: the faces stage's choices.
WORDS_FOR_WEIGHTS = ("auto", "none")
# Kinds of words that a platform may have for its pictures already.
if TYPE_CHECKING:
    Given = str
else:
    Given = Literal[tuple(KINDS)]
Reuse = Literal["exact", "near"]


def place(path: Path, info: ValidationInfo) -> Path:
    """Return a path of a pipeline file, whose folder is the validation's context; any other path as it is."""
    folder: Path = Path() if info.context is None else info.context["folder"]
    return folder / path


def place_taxonomy(path: Path, info: ValidationInfo) -> Path:
    """Return the name of a taxonomy that comes along as it is, `place` of any other."""
    placed = place(path, info)
    return path if find_shipped(path) and not placed.is_file() else placed


def place_model(name: str, info: ValidationInfo) -> str:
    """Return the name of a text encoder, `place` where it is a folder."""
    return name if name == USE or name.startswith(HUB) else str(place(Path(name), info))


# A path as it is typed; one in a pipeline file is relative to it.
File = Annotated[Path, AfterValidator(place)]
TaxonomyPath = Annotated[Path, AfterValidator(place_taxonomy)]


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


class EncodeSettings(Strict):
    """How texts become vectors: by `use` or a model (a folder, hf:owner/name), and so many characters of each."""

    model: Annotated[str, AfterValidator(place_model)] = USE
    most_characters: int = Field(default=MOST_CHARACTERS, ge=1, le=10_000)


class Pipeline(Strict):
    """How pictures are looked at: the stages with their settings, and workers.

    `stage_settings` has the tables that bear the names of registered stages, such as [ocr].
    `media_root` is the folder that pictures may lie in, or below; null: the folder of the posts that name them.
    `fetch` is the folder that pictures behind web addresses are fetched into, as `web` says; null: they are not fetched.
    `words` names columns of the posts that hold words for the pictures, by the kind of wording that they become.
    """

    stages: tuple[str, ...] = ("ocr", "faces", "embed")
    stage_settings: dict[str, StageTable] = {}
    media: MediaSettings = MediaSettings()
    workers: WorkerSettings = WorkerSettings()
    encode: EncodeSettings = EncodeSettings()
    store: File | None = None
    media_root: File | None = None
    fetch: File | None = None
    web: WebSettings = WebSettings()
    reuse: Reuse = "exact"
    gallery: File | None = None
    words: dict[Given, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_stage_tables(cls, data: dict[str, object]) -> dict[str, object]:
        own = {name: data[name] for name in names("stage") if name in data}
        rest = {name: value for name, value in data.items() if name not in own}
        return rest | {"stage_settings": own} if own else rest

    def make_stage(self, name: str) -> "PictureStage[Any]":
        """Return the stage `name` with its settings; raises RequestError for an unknown name or setting."""
        stage: Any = load("stage", name)
        try:
            made: PictureStage[Any] = stage(stage.Config(**self.stage_settings.get(name, {})))
        except ValidationError as error:
            raise RequestError(explain(error, stage.Config, f"[{name}]")) from error
        return made

    def with_words(self, words: dict[str, str]) -> "Pipeline":
        """Return this pipeline with these columns of words before its own; raises RequestError for an unknown kind."""
        strange = next((kind for kind in words if kind not in KINDS), None)
        if strange is not None:
            raise RequestError(f"--words {strange}={words[strange]}: expected one of {LISTED} before the =")
        return self.model_copy(update={"words": {**self.words, **words}})

    def for_words(self, named: bool = True) -> "Pipeline":
        """Return this pipeline without `embed` where it says nothing without a codebook.

        It does by its classes, and, where names of tags are at hand (`named`), by vectors of texts.
        """
        embed = self.make_stage("embed") if "embed" in self.stages else None
        if embed is None or getattr(embed, "tells_classes", False) or (named and getattr(embed, "reads_texts", False)):
            return self
        return self.model_copy(update={"stages": tuple(stage for stage in self.stages if stage != "embed")})

    def says_how_to_look(self) -> bool:
        """Tell whether anything that decides how pictures are looked at was given."""
        return bool(self.model_fields_set.intersection(LOOKS))


def describe_stage(config: "StageConfig") -> dict[str, JsonValue]:
    """Return settings of a stage as a training's JSON file has them: no permissions, and weights by name or by hash."""
    kept: dict[str, JsonValue] = config.model_dump(mode="json", exclude=set(config.grants))
    return kept | {name: pin(value) for name in config.weights if isinstance(value := kept.get(name), str)}


def look_as_trained(settings: Pipeline, about: "TrainedLooks", model: Path, partial: bool = False) -> Pipeline:
    """Return a pipeline that looks at pictures as a training did, by what model.json or match.json of `model` says.

    Where `settings` say how to look they stay: see `check_looks`. Else the model is asked, which may come from anybody: it
    gives no permissions, and names no weights but those of the table and those that are here. Raises ModelError; where it
    may be `partial` a stage that this concerns is left out.
    """
    settings = settings.model_copy(update={"words": {**settings.with_words(about.get("words", {})).words, **settings.words}})
    if settings.says_how_to_look():
        return settings
    own = {}
    for name, kept in about["stages"].items():
        try:
            own[name] = _trust_settings(name, kept)
        except RequestError as error:
            if not partial:
                raise ModelError(
                    f"{model}: may not choose for you what its {name} looks with: {error}; where you trust it, give a "
                    "pipeline of your own, the one that it was trained with: -p"
                ) from error
            log.warning("the model does without %s: %s", name, error)
    try:
        trained = Pipeline.model_validate({"stages": tuple(own), "stage_settings": own, "media": about["media"]})
    except ValidationError as error:
        raise ModelError(explain(error, Pipeline, f"{model}: its settings")) from error
    return settings.model_copy(update={name: getattr(trained, name) for name in LOOKS})


def _trust_settings(stage: str, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return settings of a model's stage without permissions; raises RequestError for weights that it may not name."""
    known: Any = load("stage", stage)
    config = known.Config
    for value in map(settings.get, config.weights):
        if isinstance(value, str) and value not in WORDS_FOR_WEIGHTS:
            refuse_unpinned(value)
    return {name: value for name, value in settings.items() if name not in config.grants}


def check_looks(settings: Pipeline, about: "TrainedLooks", model: Path) -> None:
    """Raise ModelError where a pipeline does not look at pictures as a model's training did."""
    try:
        media = MediaSettings.model_validate(about["media"])
    except ValidationError as error:
        raise ModelError(explain(error, MediaSettings, f"{model}: its [media]")) from error
    if settings.media != media:
        raise ModelError(f"{model}: was trained with {media!r}, here it is {settings.media!r}: use the same [media]")
    for name, fingerprint in about["fingerprints"].items():
        found = settings.make_stage(name).fingerprint() if name in settings.stages else "absent"
        if found != fingerprint:
            raise ModelError(
                f"{model}: was trained on {name}-{fingerprint}, here it is {found}: "
                "use the pipeline and package versions of the training, or train again"
            )


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first fault in one line, with the nearest known key for an unknown one."""
    # A key that is missing may only be misspelt.
    fault = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(step) for step in fault["loc"] if step != "stage_settings"]
    for step in place[:-1]:
        inner = model.model_fields[step].annotation if step in model.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), model)
    if fault["type"] != "extra_forbidden":
        return f"{where}: {'.'.join(place)}: {fault['msg'].removeprefix('Value error, ')}; found {fault['input']!r}"
    known = [name for name in model.model_fields if name != "stage_settings"]
    known += names("stage") if issubclass(model, Pipeline) else []
    near = get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown key {'.'.join(place)!r}; {hint}"

"""What stages that look at pictures promise and share, and the fingerprint that names a stage's answers."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, NotRequired, cast

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, JsonValue
from typing_extensions import TypedDict

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.core.schema import arrow_schema
from weibotag.vision.backend import Answer, Backend
from weibotag.vision.media.pictures import frame_pixels
from weibotag.vision.registry import REGISTRY, load, names

FINGERPRINT_LENGTH = 12
REASON_LENGTH = 200
# A struct in a column, and a row of a table as Arrow gives it; `core.schema` has the types of their fields.
Struct = Mapping[str, object]
Row = Mapping[str, Any]


class Wording(NamedTuple):
    """What a picture says, as one word or line: its kind, score (0 to 1), and the box where it stands, if any."""

    word: str
    kind: str
    score: float
    box: list[float] | None = None


def stage_class(name: str) -> "type[PictureStage[Any]]":
    """Return the class of a stage; raises RequestError for a name that is not registered."""
    return cast("type[PictureStage[Any]]", load("stage", name))


def stages_of_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the registered stages that find wordings of any of these kinds."""
    return tuple(name for name in names("stage") if not set(stage_class(name).kinds).isdisjoint(kinds))


class StageConfig(BaseModel):
    """Settings of a stage that looks at pictures: its backend, and what the backends take.

    `machine` names those that say where an answer is made and not what it is, or what the hashes of the weights say better:
    the fingerprint leaves them out. `weights` are those that name weights, `grants` those that permit something: a model
    that was trained may say neither as it likes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    machine: ClassVar[frozenset[str]] = frozenset({"device", "engine", "model", "allow_pickle"})
    weights: ClassVar[tuple[str, ...]] = ("model",)
    grants: ClassVar[frozenset[str]] = frozenset({"allow_pickle"})

    backend: str


class TrainedLooks(TypedDict):
    """How a training looked at pictures, as its JSON file says: settings by stage, fingerprints by stage, [media], words."""

    stages: dict[str, dict[str, JsonValue]]
    fingerprints: dict[str, str]
    media: dict[str, int]
    words: NotRequired[dict[str, str]]


class PictureStage(Generic[Answer]):
    """A stage says something of pictures, by a backend: each answer is a function of its own picture alone.

    Its table in `core.schema` has its name. `kinds` are the kinds of wordings that its findings become, `nominal_ms` what it
    takes for a picture on two cores of 2023, `finds` the column that it fills (one that fills more has its own `fill`),
    `own` the settings that it uses itself; a backend takes those settings that its constructor names.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()
    nominal_ms: ClassVar[float]
    version: ClassVar[int]
    finds: ClassVar[str]
    own: ClassVar[frozenset[str]] = frozenset({"backend"})

    def __init__(self, config: Any) -> None:
        self.config = config
        self._backend: Backend[Answer] | None = None
        # Pictures that the backend looks at together; what is too much for its memory lowers it.
        self._together = 0

    def describe(self, answer: Answer) -> list[Struct]:
        """Return what the backend found in one picture as a value of the column `finds`."""
        raise NotImplementedError

    @staticmethod
    def words(row: Row) -> list[Wording]:
        """Return what one picture says, by the stage's row of it: nothing."""
        return []

    @classmethod
    def agree(cls, one: Row, other: Row) -> bool:
        """Tell whether two rows are what the stage finds in two copies of one picture: the same words."""
        return sorted(found.word for found in cls.words(one)) == sorted(found.word for found in cls.words(other))

    def fill(self, answers: Sequence[Answer | None]) -> dict[str, list[Any]]:
        """Return the values of columns for what the backend found in each picture, null for None."""
        return {self.finds: [None if answer is None else self.describe(answer) for answer in answers]}

    @property
    def alone(self) -> bool:
        """Tell whether the backend's library must have a process to itself."""
        return bool(getattr(self._backend_class(), "alone", False))

    @property
    def by_torch(self) -> bool:
        """Tell whether the backend's networks run on torch."""
        entry = REGISTRY.get((self.name, self.config.backend))
        return entry is not None and "torch" in entry.libraries

    def fingerprint(self) -> str:
        """Return the name of this stage's answers; no model is loaded.

        Raises RequestError for a setting that the backend does not know, and when a file of weights or a GPU is absent.
        """
        backend = self._make_backend()
        if getattr(self.config, "device", "auto").startswith("cuda"):
            refuse_absent_gpu(f"[{self.name}] device", self.by_torch)
        used = self.own | set(self._settings())
        settings = self.config.model_dump(mode="json", include=used - self.config.machine)
        return fingerprint(self.name, self.version, settings, backend.weights())

    def open(self, threads: int = 1) -> None:
        """Load the model, once per worker, to run on `threads` threads."""
        self._backend = self._make_backend()
        self._backend.open(threads)

    def process(self, table: pa.Table) -> pa.Table:
        """Return a row of the stage's table for each row of `table` (schema "frames"), in order.

        A picture that can't be used gets nulls and a reason in `<name>_error`; an exception means that the part failed.
        """
        pictures = [frame_pixels(table, row) for row in range(len(table))]
        step = self._together or len(pictures) or 1
        answers: list[Answer | Fault] = []
        backend = self._backend
        assert backend is not None
        for start in range(0, len(pictures), step):
            answers += look_in_halves(backend.look, pictures[start : start + step], backend.errors, self._lower)
        columns = {
            "media_id": table["media_id"],
            **self.fill([None if isinstance(answer, Fault) else answer for answer in answers]),
            f"{self.name}_error": [str(answer) if isinstance(answer, Fault) else None for answer in answers],
        }
        return pa.table(columns, schema=arrow_schema(self.name))

    def close(self) -> None:
        """Let the model go."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def _lower(self, count: int) -> None:
        self._together = max(1, count // 2)

    def _backend_class(self) -> type:
        return load(self.name, self.config.backend)

    def _settings(self) -> dict[str, object]:
        """Return the settings that the backend takes, by the names of its constructor's arguments; null is its default."""
        taken = inspect.signature(self._backend_class()).parameters
        fields = type(self.config).model_fields
        changed = {name for name, field in fields.items() if getattr(self.config, name) != field.default}
        unknown = changed - set(taken) - self.own
        if unknown:
            raise RequestError(f"[{self.name}]: {min(unknown)} is no setting of the backend {self.config.backend!r}")
        given = {name: getattr(self.config, name) for name in fields if name in taken}
        return {name: value for name, value in given.items() if value is not None}

    def _make_backend(self) -> Backend[Answer]:
        backend: Backend[Answer] = self._backend_class()(**self._settings())
        return backend


def refuse_absent_gpu(setting: str, by_torch: bool) -> None:
    """Raise RequestError where the library that runs the networks sees no GPU."""
    if by_torch:
        import torch

        library, seen = "torch", torch.cuda.is_available()
    else:
        import onnxruntime

        library, seen = "onnxruntime", "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not seen:
        raise RequestError(f"{setting}: {library} sees no GPU here: choose auto or cpu, or install {library} for CUDA")


class Fault(str):
    """Why a picture could not be looked at, in one line."""


def look_in_halves(
    look: Callable[[Sequence[np.ndarray]], Sequence[Answer]],
    pictures: Sequence[np.ndarray],
    errors: tuple[type[Exception], ...],
    too_much: Callable[[int], None] = lambda count: None,
) -> "list[Answer | Fault]":
    """Return what `look` answers for each picture, or a Fault where it raises one of `errors` for that picture alone.

    Pictures that fail together are looked at again in halves. `too_much` is told how many were too many for the memory.
    """
    try:
        return list(look(pictures))
    except errors as error:
        if len(pictures) == 1:
            reason = (str(error).strip().splitlines() or ["no message"])[-1]
            return [Fault(f"{type(error).__name__}: {reason}"[:REASON_LENGTH])]
        if "out of memory" in str(error).lower():
            too_much(len(pictures))
    # Outside the handler: an error that is being handled keeps the failed batch's memory.
    middle = len(pictures) // 2
    halves = pictures[:middle], pictures[middle:]
    return [answer for half in halves for answer in look_in_halves(look, half, errors, too_much)]


def fingerprint(
    name: str, version: int, settings: Mapping[str, object], weights: Iterable[Path], reads: Iterable[str] = ()
) -> str:
    """Return 12 hex digits that change with the stage, its settings, its weights or the fingerprints of what it reads.

    Raises RequestError when a file of weights is absent.
    """
    parts = {
        "name": name,
        "version": version,
        "config": dict(settings),
        "weights": [hash_weights(path) for path in weights],
        "reads": sorted(reads),
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def hash_weights(path: Path) -> str:
    """Return the sha256 of a file of weights, hex; raises RequestError when it can't be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise RequestError(f"{path}: can't be read ({error.strerror}): give the path of a file that is there") from error

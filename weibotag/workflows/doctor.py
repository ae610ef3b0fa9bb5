"""What is installed, what is missing and what to do about it."""

import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from weibotag.core import __version__
from weibotag.core.errors import RequestError, WeibotagError
from weibotag.extraction.settings import Pipeline
from weibotag.runtime.findings_store import Store, default_root
from weibotag.vision.media.pictures import Frame, frames_table
from weibotag.vision.registry import REGISTRY, load, names
from weibotag.vision.stage import stage_class
from weibotag.vision.weights.catalogue import without_fetching

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?(?P<wants>[^;]*)(;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")
PACKAGE = "weibotag"
# Both install the same files; those of the one that came last are imported.
CPU_BUILD = "pip uninstall onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"


@dataclass(frozen=True)
class Library:
    """A library that weibotag needs: the versions it wants, the one that is there (None: none), and the remedy."""

    name: str
    wants: str
    found: str | None
    fix: str | None


@dataclass(frozen=True)
class Extra:
    """An extra, its libraries, those of them that are missing, and the remedy."""

    name: str
    libraries: list[str]
    missing: list[str]
    fix: str | None


@dataclass(frozen=True)
class StageFacts:
    """A stage, its kinds of wordings, and the milliseconds that a picture is reckoned with."""

    name: str
    kinds: list[str]
    nominal_ms: float


@dataclass(frozen=True)
class BackendState:
    """A backend, and why it can't be used (None when it can)."""

    stage: str
    name: str
    licence: str
    fault: str | None


@dataclass(frozen=True)
class WeightsState:
    """A file of weights of a backend that is ready."""

    backend: str
    path: str
    ready: bool


@dataclass(frozen=True)
class StoreFolder:
    """What the store keeps of a stage with some settings."""

    stage: str
    fingerprint: str
    parts: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class StoreState:
    """The store's folder, why it can't be written to (None when it can), and what it keeps."""

    folder: str | None
    fault: str | None
    folders: list[StoreFolder]


@dataclass(frozen=True)
class LiteState:
    """Whether the pipeline lite looked at a picture (`fault` None), and the seconds that it took."""

    fault: str | None
    seconds: float


@dataclass(frozen=True)
class Machine:
    """What the machine has; without the core libraries nothing beyond them and the extras is known."""

    libraries: list[Library]
    extras: list[Extra]
    stages: list[StageFacts]
    backends: list[BackendState]
    weights: list[WeightsState]
    store: StoreState
    lite: LiteState
    python: str = platform.python_version()
    weibotag: str = __version__
    cores: int = len(os.sched_getaffinity(0))


def examine() -> Machine:
    """Return what the machine has, and whether the pipeline lite runs."""
    libraries, extras = list_libraries()
    missing = next((library.fix for library in libraries if library.fix), None)
    if missing is not None:
        return Machine(libraries, extras, [], [], [], StoreState(None, missing, []), LiteState(missing, 0.0))
    backends, weights = list_backends()
    store = measure_store()
    lite = try_lite() if store.fault is None else LiteState(store.fault, 0.0)
    return Machine(libraries, extras, list_stages(), backends, weights, store, lite)


def list_libraries() -> tuple[list[Library], list[Extra]]:
    """Return the libraries that weibotag needs, and its extras; raises RequestError when it was not installed itself."""
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise RequestError("weibotag runs from a folder that was not installed: pip install that folder") from error
    core: list[Library] = []
    extras: dict[str, list[str]] = {}
    for text in requirements:
        found = REQUIREMENT.match(text)
        assert found is not None
        name, wants, extra = found["name"], found["wants"].strip(), found["extra"]
        if extra is None:
            # onnxruntime-gpu takes the place of onnxruntime.
            version = find_version(name) or find_version(f"{name}-gpu")
            fix = None if version and meets(version, wants) else f"pip install '{name}{wants}'"
            core.append(Library(name, wants, version, fix))
        elif name != PACKAGE:
            extras.setdefault(extra, []).append(name)
    listed = []
    for extra, needed in extras.items():
        missing = [name for name in needed if find_version(name) is None]
        fix = f"pip install '{PACKAGE}[{extra}]'" if missing else None
        if extra == "cuda" and not missing and find_version("onnxruntime"):
            fix = CPU_BUILD
        listed.append(Extra(extra, needed, missing, fix))
    return core, listed


def find_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def meets(version: str, wants: str) -> bool:
    """Return whether a version is within bounds like ">=4.10,<5"; bounds of other kinds than >= and < are not checked."""
    found = read_numbers(version)
    for bound in filter(None, wants.split(",")):
        sign, number = re.match(r"\s*([<>=!~]+)(.*)", bound).groups()  # type: ignore[union-attr]
        if (sign == ">=" and found < read_numbers(number)) or (sign == "<" and found >= read_numbers(number)):
            return False
    return True


def read_numbers(version: str) -> list[int]:
    """Return the numbers of a release: [4, 10] for 4.10, 4.10rc1 and 4.10.0."""
    numbers = [int(number) for number in re.match(r"[\d.]*", version).group().split(".") if number]  # type: ignore[union-attr]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def list_stages() -> list[StageFacts]:
    """Return the stages that there are."""
    stages = {name: stage_class(name) for name in names("stage")}
    return [StageFacts(name, list(stage.kinds), stage.nominal_ms) for name, stage in stages.items()]


def list_backends() -> tuple[list[BackendState], list[WeightsState]]:
    """Return the backends, and the files of weights of those that are ready."""
    backends: list[BackendState] = []
    weights: list[WeightsState] = []
    for (kind, name), entry in REGISTRY.items():
        if kind == "stage":
            continue
        fault: str | None = None
        try:
            backend: Any = load(kind, name)
            with without_fetching():
                files: list[Path] = backend().weights()
        except (WeibotagError, ImportError) as error:
            fault, files = str(error), []
        absent = [str(path) for path in files if not path.is_file()]
        if absent:
            fault = f"{', '.join(absent)}: no such file: install its package again"
        weights += [WeightsState(f"{kind} {name}", str(path), path.is_file()) for path in files]
        backends.append(BackendState(kind, name, entry.licence, fault))
    return backends, weights


def measure_store() -> StoreState:
    """Return where the store is, whether it can be written to, and the sizes of what it keeps."""
    root = default_root().absolute()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    fault = None if writable else f"{nearest} can't be written to: choose another store by --store or WEIBOTAG_STORE"
    return StoreState(str(root), fault, [StoreFolder(*sizes) for sizes in Store(root).sizes()])


def try_lite() -> LiteState:
    """Look at one small picture with every stage of the pipeline lite; return seconds, and the fault where one fails."""
    import numpy as np

    pipeline = Pipeline()
    frames = frames_table([Frame("picture", np.full((64, 64, 3), 255, np.uint8))])
    start = perf_counter()
    for name in pipeline.stages:
        try:
            stage = pipeline.make_stage(name)
            stage.fingerprint()
            stage.open()
            stage.process(frames)
            stage.close()
        # Whatever is broken in a library, this is where it is told.
        except Exception as error:  # noqa: BLE001
            said = str(error).strip().splitlines() or [type(error).__name__]
            return LiteState(f"{name}: {said[-1]}", round(perf_counter() - start, 2))
    return LiteState(None, round(perf_counter() - start, 2))

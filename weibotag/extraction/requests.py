"""What is asked for: one model per command, whose fields are its options and the keys of a pipeline file's table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt
from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, ValidationInfo

from weibotag.core.errors import RequestError
from weibotag.core.files import MODEL
from weibotag.core.kinds import LISTED
from weibotag.core.option import NETWORK, PICTURES, POSTS, RUN, SEARCH, Argument, Input, Option, Output, Quiet
from weibotag.extraction.settings import File, Pipeline, Reuse, Strict, TaxonomyPath, place
from weibotag.posts.source import LISTS, PostsSource
from weibotag.vision.media.manners import Header

# Pipelines that have a name; `lite` is what every default says.
NAMED = ("lite", "full", "gpu")
STDIO = "-"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# An example of each option that takes NAME=COLUMN, by its field.
PAIRS = {
    "columns": "--column text=content",
    "split": "--split images=|",
    "tasks": "--task mood=column",
    "words": "--words ocr=ocr_text",
}
# Columns of posts that an output can have as well.
KEPT = ("text", "images", "videos", "author", "channel", "created_at", "tags", "keywords")
ESCAPES = {r"\n": "\n", r"\t": "\t"}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9}

Route = Literal["rules", "fast", "linear", "xmc", "text", "average", "fused", "cascade"]
# What can be trained, besides a network by its name.
TAGGERS = ("auto", *get_args(Route)[1:])


def read_pairs(pairs: Any, info: ValidationInfo) -> Any:
    """Return texts NAME=COLUMN as a dict, anything else as it is; raises RequestError for a text without `=`."""
    if not isinstance(pairs, list | tuple):
        return pairs
    parsed = {}
    for pair in pairs:
        name, equals, column = str(pair).partition("=")
        if not (name.strip() and equals and column.strip()):
            example = PAIRS[str(info.field_name)]
            raise RequestError(f"{example.split()[0]} {pair!r}: expected NAME=COLUMN, as in {example}")
        parsed[name.strip()] = column.strip()
    return parsed


def split_amount(text: str, units: Mapping[str, float]) -> tuple[float, str]:
    """Return a number and which of `units` stands behind it ("" for none); -1 where there is no such number."""
    unit = next((unit for unit in units if text.upper().endswith(unit.upper())), "")
    try:
        found = float(text[: len(text) - len(unit)]) * units.get(unit, 1.0)
    except ValueError:
        found = -1.0
    return found if 0 <= found < float("inf") else -1.0, unit


def read_amount(amount: Any, units: Mapping[str, float], expected: str, info: ValidationInfo) -> float | None:
    """Return a number with one of `units` behind it, or none, as a number; raises RequestError for anything else."""
    if amount is None:
        return None
    text = str(amount).strip()
    found, _ = split_amount(text, units)
    if found < 0:
        raise RequestError(f"--{info.field_name} {text!r}: expected {expected}")
    return found


def read_kept(names: Any) -> tuple[str, ...]:
    """Return the columns that a text names, parted by commas; raises RequestError for others than those of posts, or all."""
    text = names if isinstance(names, str) else ",".join(names)
    asked = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    strange = next((name for name in asked if name not in (*KEPT, "all")), None)
    if strange is not None:
        expected = f"expected all, or some of {', '.join(KEPT)}; columns of your own are kept anyway"
        raise RequestError(f"--keep {strange}: {expected}")
    return KEPT if "all" in asked else asked


def read_seconds(time: Any, info: ValidationInfo) -> float | None:
    """Return a time (90s, 30m, 2h, or seconds) in seconds; raises RequestError for anything else."""
    return read_amount(time, SECONDS, "a time, as in 90s, 30m or 2h", info)


def read_bytes(size: Any, info: ValidationInfo) -> float | None:
    """Return a size (500MB, 4GB, or bytes) in bytes; raises RequestError for anything else."""
    return read_amount(size, BYTES, "a size, as in 500MB or 4GB", info)


def place_text(text: str, info: ValidationInfo) -> str:
    """Return what may be a path as `place` does; `-`, names of pipelines and models of a hub stay."""
    return text if text in ("", STDIO, *NAMED) or text.startswith("hf:") else str(place(Path(text), info))


Text = Annotated[str, AfterValidator(place_text)]
Pairs = Annotated[dict[str, str], BeforeValidator(read_pairs)]
Out = Annotated[
    Text, Option("OUT.parquet, .csv, .xlsx, .jsonl, or - (JSONL to stdout).", short="-o"), Output(beside=(".run",))
]
Gallery = Annotated[File | None, Option("Names for faces: what `faces gallery build` made.", panel=PICTURES), Input()]
Same = Annotated[Reuse | None, Option("near: reposts saved anew are not looked at.", panel=PICTURES, shown="exact")]
Fetch = Annotated[
    File | None,
    Option("Folder to fetch pictures behind URLs into.", metavar="DIR", panel=PICTURES, shown="not fetched"),
    Output(folder=True),
]
WORDS = f"Words the posts bring for pictures: {LISTED}."
Words = Annotated[Pairs, Option(WORDS, metavar="KIND=COLUMN", panel=PICTURES)]
Run = Annotated[File | None, Option("Run folder.", panel=RUN, shown="OUT.run"), Output(whole=True)]
PIPELINE = Option("lite, full, gpu, or a TOML file.", short="-p", panel=PICTURES, shown="lite")
Valid = Annotated[str | None, Option("Rows to choose thresholds on.", metavar="EXPR", shown="a tenth")]
TREE = "Tag tree: weibo, or a file."
TaxonomyFile = Annotated[TaxonomyPath, Option(TREE, short="-t"), Input()]


class Request(Strict):
    """What every command knows."""

    quiet: Quiet = False


class PostsRequest(Request):
    """Which posts are read."""

    posts: Annotated[Text, Argument("Posts: file, folder, quoted glob, or - (CSV or JSON).", "POSTS"), Input(posts=True)]
    where: Annotated[str | None, Option("Rows that count: \"split = 'train'\" (DuckDB).", metavar="EXPR", panel=POSTS)] = (
        None
    )
    columns: Annotated[
        Pairs, Option("Map a column: text=content.", flag="--column", metavar="OURS=THEIRS", panel=POSTS)
    ] = {}
    limit: Annotated[int | None, Ge(1), Option("Stop after so many posts.", panel=POSTS)] = None
    adapter: Annotated[
        str | None, Option("Whose columns: none, a name, a TOML file.", panel=POSTS, shown="by the header")
    ] = None
    split: Annotated[Pairs, Option("What parts items: images='|'.", metavar="OURS=MARK", panel=POSTS)] = {}
    pictures: Annotated[str | None, Option("Find pictures: 'img/*/*_{post_id}*.jpg'.", metavar="PATTERN", panel=POSTS)] = (
        None
    )

    corrections: Annotated[File | None, Option("Tags by post_id that win over those in POSTS.", panel=POSTS), Input()] = None

    @property
    def source(self) -> PostsSource:
        """Return where the posts come from."""
        splits = []
        for name, mark in self.split.items():
            if name not in LISTS:
                raise RequestError(f"--split {name}={mark}: expected one of {', '.join(LISTS)}")
            splits.append((name, ESCAPES.get(mark, mark)))
        columns, corrections = tuple(self.columns.items()), None if self.corrections is None else str(self.corrections)
        return PostsSource(
            self.posts, columns, self.where, self.limit, self.adapter, self.pictures, tuple(splits), corrections
        )


class WordingsRequest(PostsRequest):
    """Which posts are read, and what their pictures say: their column `wordings`, a file of them, or columns of words."""

    wordings: Annotated[
        Path | None,
        Option("What `weibotag wordings` wrote (.parquet).", panel=PICTURES, shown="the posts' own column"),
        Input(),
    ] = None
    words: Words = {}


class PicturesRequest(PostsRequest):
    """Which posts are read, and how their pictures are looked at: see `pipeline_files.choose_pipeline`."""

    pipeline: Annotated[Text | Pipeline | None, PIPELINE, Input()] = None
    store: Annotated[
        File | None,
        Option("Folder that keeps what pictures say.", panel=RUN, shown="$WEIBOTAG_STORE, or a cache"),
        Output(folder=True),
    ] = None
    media_root: Annotated[
        File | None,
        Option("Folder pictures may lie in or below.", panel=PICTURES, shown="the posts' folder"),
        Input(outside=True),
    ] = None
    workers: Annotated[
        int | None, Ge(0), Option("Processes for pictures; 0: none but this.", panel=RUN, shown="one per core")
    ] = None


class TrainRequest(PicturesRequest):
    """What is trained, on which posts: rows of one post are its labels."""

    @property
    def source(self) -> PostsSource:
        """Return where the posts come from."""
        return replace(super().source, unite=True)

    taxonomy: TaxonomyFile
    model: Annotated[File, Option("Folder of the model.", flag="--out", short="-o"), Output(beside=(".run",), kind=MODEL)]
    tagger: Annotated[
        str,
        Option(f"{', '.join(TAGGERS)}, or a network's name; see docs/taggers.md.", metavar="NAME"),
    ] = "auto"
    valid: Valid = None
    tune_seconds: Annotated[float, Ge(0), Option("Time to try hyper-parameters; 0: none tried.", panel=SEARCH)] = 120
    threads: Annotated[int, Ge(1), Option("Of fastText; above 1 it varies.", panel=SEARCH)] = 1
    memory: Annotated[
        float | None,
        BeforeValidator(read_bytes),
        Gt(0),
        Option("What xmc may take, as in 4GB.", metavar="SIZE", panel=SEARCH),
    ] = None
    network: Annotated[str, Option("Network of fused and cascade: concat, hma, vl-bert …", panel=NETWORK)] = "concat"
    minutes: Annotated[float | None, Ge(0), Option("To train the network.", panel=NETWORK, shown="as it needs")] = None
    tasks: Annotated[Pairs, Option("A further task; repeatable.", flag="--task", metavar="NAME=COLUMN", panel=NETWORK)] = {}
    seed: Annotated[int, Option("Seed of the network.", panel=NETWORK)] = 0
    start: Annotated[File | None, Option("What `weibotag pretrain` made, to begin with.", panel=NETWORK), Input()] = None
    encoder: Annotated[Text, Option("Language model: a folder, or hf:owner/name.", panel=NETWORK), Input()] = ""
    encoder_training: Annotated[Literal["frozen", "full", "lora"], Option("What of it is trained.", panel=NETWORK)] = (
        "frozen"
    )
    gallery: Gallery = None
    reuse: Same = None
    words: Words = {}


class TagRequest(PicturesRequest):
    """What tags which posts; one of model and taxonomy is needed."""

    out: Out
    fetch: Fetch = None
    keep: Annotated[
        tuple[str, ...],
        BeforeValidator(read_kept),
        Option("Columns of posts that OUT has too: text,author, or all.", metavar="NAMES", panel=POSTS),
    ] = ()
    model: Annotated[File | None, Option("Folder that `weibotag train` made.", short="-m"), Input()] = None
    taxonomy: Annotated[
        TaxonomyPath | None,
        Option("Without a model: tag by the words of weibo, or of a tag tree's file.", short="-t"),
        Input(),
    ] = None
    route: Annotated[Route | None, Option("Tagger that answers.", shown="the one that was trained")] = None
    plan: Annotated[File | None, Option("What `weibotag plan` made: what the cascade may spend, and on what."), Input()] = (
        None
    )
    words_only: Annotated[bool, Option("Rules go by words alone, not by what posts mean, too.")] = False
    deadline: Annotated[
        float | None,
        BeforeValidator(read_seconds),
        Option("After so long (90s, 30m, 2h) no picture is looked at.", metavar="TIME"),
    ] = None
    max_rejects: Annotated[int | None, Ge(0), Option("Exit 3, tagging nothing, above so many rejects.", panel=POSTS)] = None
    run: Run = None
    gallery: Gallery = None
    reuse: Same = None
    words: Words = {}


class PlanRequest(PicturesRequest):
    """What tagging by a cascade is planned for."""

    model: Annotated[File, Option("Folder of a model trained with --tagger cascade.", short="-m"), Input()]
    out: Annotated[File, Field(validate_default=True), Option("File of the plan.", short="-o"), Output(beside=(".run",))] = (
        Path("plan.json")
    )
    budget: Annotated[
        str | None,
        Option("Time in all (30m), a post (5ms), or times a run on text (3x).", metavar="BUDGET", shown="the curve's knee"),
    ] = None
    sample: Annotated[int, Ge(10), Option("Posts with pictures that are looked at to know.")] = 300
    plot: Annotated[File | None, Option("Draw the curve: .png or .svg."), Output()] = None
    gallery: Gallery = None


class StageRequest(PicturesRequest):
    """Which pictures a stage looks at, and where its findings are written."""

    out: Out
    fetch: Fetch = None
    run: Run = None
    reuse: Same = None


class FetchRequest(PostsRequest):
    """Whose pictures are fetched from the web, and how: `headers` and `allow_network` beside those of the pipeline."""

    out: Annotated[File, Option("Folder of the pictures.", metavar="DIR", short="-o"), Output(folder=True)]
    pipeline: Annotated[Text | Pipeline | None, Option("TOML file with a table [web].", short="-p"), Input()] = None
    headers: Annotated[
        tuple[Header, ...], Option("Header, as 'HOST Referer: URL'; repeatable.", flag="--header", metavar="TEXT")
    ] = ()
    allow_network: Annotated[
        tuple[IPvAnyNetwork, ...], Option("Reach it though it is not public: 10.1.0.0/16; repeatable.", metavar="NETWORK")
    ] = ()


class EncodeRequest(PostsRequest):
    """Whose texts become vectors, by which encoder, and where they are written."""

    out: Annotated[Text, Option("OUT.parquet, .csv, .xlsx, .jsonl, or - (JSONL to stdout).", short="-o"), Output()]
    pipeline: Annotated[Text | Pipeline | None, Option("TOML file with a table [encode].", short="-p"), Input()] = None
    model: Annotated[str | None, Option("Encoder: use, a folder, or hf:owner/name.", shown="the pipeline's"), Input()] = None


class PipelineFile(Pipeline):
    """A pipeline, and what `weibotag run` does with it, in this order."""

    train: TrainRequest | None = None
    plan: PlanRequest | None = None
    tag: TagRequest | None = None

"""`weibotag train`, `tag`, `run`, `status`: the main job."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weibotag.cli.options import (
    Columns,
    Gallery,
    Json,
    Limit,
    Quiet,
    Reuse,
    Store,
    Where,
    Words,
    check_stdout,
    parse_bytes,
    parse_columns,
    parse_pairs,
    parse_seconds,
)
from weibotag.core.errors import RequestError

if TYPE_CHECKING:
    from weibotag.extraction.settings import Pipeline, TagSettings, TrainSettings
    from weibotag.taggers.tagger_ref import TaggerRef

PostsArgument = Annotated[
    str, typer.Argument(metavar="POSTS", help="Posts: a file, a folder, a quoted glob, or - (CSV or JSONL).")
]
PipelineOption = Annotated[
    str | None,
    typer.Option("--pipeline", "-p", help="lite, full, gpu, or a TOML file that says how pictures are looked at."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes that look at pictures; 0: none but this.", show_default="one per core"),
]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run folder.", show_default="OUT.run")]


class Route(StrEnum):
    """Taggers that can answer."""

    rules = "rules"
    fast = "fast"
    xmc = "xmc"
    average = "average"
    text = "text"
    fused = "fused"
    cascade = "cascade"


class Trained(StrEnum):
    """Taggers that can be trained."""

    fast = "fast"
    xmc = "xmc"
    auto = "auto"
    fused = "fused"
    cascade = "cascade"


class EncoderTraining(StrEnum):
    """What of a language model is trained with the network."""

    frozen = "frozen"
    full = "full"
    lora = "lora"


def train_command(
    posts: PostsArgument,
    taxonomy: Annotated[Path, typer.Option("--taxonomy", "-t", help="The tag tree: CSV, JSON or YAML.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the model.")],
    pipeline: PipelineOption = None,
    tagger: Annotated[
        Trained,
        typer.Option(
            "--tagger",
            help="fast: fastText on characters and wordings; xmc: for very many tags, or few posts of each; auto: the "
            "better of these or their mean; fused: a network beside fast; cascade: both, each where it pays.",
        ),
    ] = Trained.fast,
    network: Annotated[
        str, typer.Option("--network", help="Network of the fused tagger: concat, hma, single-stream …")
    ] = "concat",
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Time for training the network.", show_default="as it needs")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME=COLUMN", help="A further task of the network; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the network.")] = 0,
    start: Annotated[
        Path | None, typer.Option("--start", help="Folder that `weibotag pretrain` made, to begin the network from.")
    ] = None,
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="Language model that reads the text for the network: a folder, or hf:owner/name."),
    ] = "",
    encoder_training: Annotated[
        EncoderTraining,
        typer.Option(
            "--encoder-training", help="What of it is trained: frozen: nothing; full: all; lora: small additions to it."
        ),
    ] = EncoderTraining.frozen,
    valid: Annotated[
        str | None,
        typer.Option("--valid", metavar="EXPR", help="Rows that thresholds are chosen on.", show_default="a tenth"),
    ] = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    tune_seconds: Annotated[
        float, typer.Option("--tune-seconds", min=0, help="Time for trying hyper-parameters; 0: the defaults.")
    ] = 120,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of fastText; above 1 a model can't be made again exactly.")
    ] = 1,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="What training xmc may take (4GB): it learns from fewer posts then."),
    ] = None,
    words: list[str] | None = Words,
    gallery: Gallery = None,
    reuse: Reuse = None,
    store: Path | None = Store,
    workers: WorkersOption = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Train a tagger on labelled posts.

    Example: weibotag train posts.csv -t taxonomy.csv -o model --where "split = 'train'" --valid "split = 'valid'"
    """
    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource
    from weibotag.taxonomy.tree import load
    from weibotag.training.network_taggers import NetworkOptions
    from weibotag.training.train import train_model

    about = train_model(
        PostsSource(posts, parse_columns(column), where, limit),
        load(taxonomy),
        out,
        read_pipeline(pipeline).with_looks(gallery, reuse).with_words(parse_pairs(words, "--words")),
        tagger=tagger.value,
        beyond=NetworkOptions(network, minutes, parse_pairs(task, "--task"), seed, start, encoder, encoder_training.value),
        memory=None if memory is None else parse_bytes(memory, "--memory"),
        valid=valid,
        tune_seconds=tune_seconds,
        threads=threads,
        store=store,
        workers=workers,
        quiet=quiet,
    )
    report(about, f"{out}: {describe_model(about)}", as_json, quiet)


def tag_command(
    posts: PostsArgument,
    out: Annotated[str, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")],
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Folder that `weibotag train` made.")] = None,
    taxonomy: Annotated[
        Path | None, typer.Option("--taxonomy", "-t", help="Without a model: tag by this tag tree's words.")
    ] = None,
    route: Annotated[
        Route | None, typer.Option("--route", help="Tagger that answers.", show_default="the one that was trained")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="File that `weibotag plan` made: what the cascade may spend, and on what.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="TIME", help="After so long (90s, 30m, 2h) no picture is looked at any more."),
    ] = None,
    pipeline: PipelineOption = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    max_rejects: Annotated[
        int | None, typer.Option("--max-rejects", min=0, help="Exit 3, tagging nothing, above so many rejected rows.")
    ] = None,
    run: RunOption = None,
    words: list[str] | None = Words,
    gallery: Gallery = None,
    reuse: Reuse = None,
    store: Path | None = Store,
    workers: WorkersOption = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Tag posts with a model, or with a taxonomy alone.

    Example: weibotag tag posts.csv -m model -o tags.parquet

    Example: weibotag tag posts.csv -t taxonomies/weibo.csv -o tags.csv
    """
    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource
    from weibotag.workflows.tag import tag

    check_stdout(out, as_json)
    settings = read_pipeline(pipeline).with_looks(gallery, reuse).with_words(parse_pairs(words, "--words"))
    choice, settings = choose_tagger(model, taxonomy, None if route is None else str(route), settings, plan)
    summary = tag(
        PostsSource(posts, parse_columns(column), where, limit),
        out,
        choice,
        settings,
        run_folder=run,
        store=store,
        max_rejects=max_rejects,
        workers=workers,
        deadline=None if deadline is None else parse_seconds(deadline, "--deadline"),
        quiet=quiet,
    )
    report(summary, describe_run(summary), as_json, quiet)


def run_command(
    pipeline: Annotated[Path, typer.Argument(help="Pipeline file (TOML) with a table \\[train] or \\[tag], or both.")],
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Do what a pipeline file says: train, tag, or one after the other. This is what cron calls.

    Example: weibotag run pipelines/demo.toml --quiet
    """
    from weibotag.extraction.settings import read_pipeline

    settings = read_pipeline(str(pipeline))
    if settings.train is None and settings.tag is None:
        raise RequestError(f"{pipeline}: nothing to do; expected a table [train] or [tag], or both")
    base = pipeline.resolve().parent
    answers: dict[str, Any] = {}
    if settings.train is not None:
        answers["train"] = about = run_training(settings, settings.train, base, quiet)
        say(f"{settings.train.model}: {describe_model(about)}", quiet)
    if settings.tag is not None:
        answers["tag"] = summary = run_tagging(settings, settings.tag, base, quiet)
        say(describe_run(summary), quiet)
    if as_json:
        typer.echo(json.dumps(answers, ensure_ascii=False, indent=1))


def status_command(
    run: Annotated[Path, typer.Argument(help="Run folder: OUT.run unless --run said otherwise.")],
    as_json: bool = Json,
) -> None:
    """Say how far a run is, and what it has rejected.

    Example: weibotag status tags.parquet.run
    """
    from weibotag.runtime.run_folder import status

    state = status(run)
    if state["state"] == "none":
        raise RequestError(f"{run}: no run has started there; expected a run folder, which is OUT.run unless --run named it")
    if as_json:
        typer.echo(json.dumps(state, ensure_ascii=False, indent=1))
        return
    typer.echo(f"{state['folder']}: {state['state']}")
    for kind, counts in state["kinds"].items():
        total = "" if counts["total"] is None else f" of {counts['total']}"
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        typer.echo(f"  {kind}: {counts['done']}{total} parts{failed}, {counts['seconds']} s")
    typer.echo(f"  rejects: {state['rejects']}")


def choose_tagger(
    model: Path | None, taxonomy: Path | None, route: str | None, settings: "Pipeline", plan: Path | None = None
) -> tuple["TaggerRef", "Pipeline"]:
    """Return what tags and how pictures are looked at: as the model was trained.

    Raises ModelError where `settings` say how to look and it is not how the model was trained.
    """
    import hashlib
    from dataclasses import replace

    from weibotag.extraction.settings import check_looks, look_as_trained
    from weibotag.taggers.tagger_ref import TaggerRef

    if (model is None) == (taxonomy is None):
        raise RequestError("give one of --model MODEL and --taxonomy TAXONOMY (in a pipeline: model and taxonomy of [tag])")
    if taxonomy is not None:
        from weibotag.taxonomy.tree import load

        if route not in (None, "rules") or plan is not None:
            asked = "--plan" if plan is not None else f"--route {route}"
            raise RequestError(f"{asked} needs a trained model: give --model, or train one with: weibotag train")
        return TaggerRef("rules", str(taxonomy), load(taxonomy).digest), settings.for_rules()
    assert model is not None
    from weibotag.taggers.model_folder import ABOUT, check_route, read_about

    about = read_about(model)
    route = route or about["tagger"]
    check_route(model, about, route)
    digest = hashlib.sha256((model / ABOUT).read_bytes()).hexdigest()
    tagger = TaggerRef(route, str(model), digest)
    if plan is not None:
        from weibotag.workflows.plan import read_plan

        tagger = replace(tagger, plan=read_plan(plan, route, digest))
    settings = look_as_trained(settings, about)
    if route == "rules":
        return tagger, settings.for_rules()
    if route == "cascade":
        settings = leave_out_what_can_not_run(settings)
        kept = {name: mark for name, mark in about["fingerprints"].items() if name in settings.stages}
        about = about | {"fingerprints": kept}
    check_looks(settings, about, model)
    return tagger, settings


def leave_out_what_can_not_run(settings: "Pipeline") -> "Pipeline":
    """Return the pipeline without stages whose library or weights are not here: a cascade does without them, and says so."""
    able = []
    for name in settings.stages:
        try:
            settings.make_stage(name).fingerprint()
        except RequestError as error:
            say(f"the cascade does without {name}: {error}", False)
            continue
        able.append(name)
    return settings.model_copy(update={"stages": tuple(able)})


def run_training(settings: "Pipeline", train: "TrainSettings", base: Path, quiet: bool) -> dict[str, Any]:
    """Train as the [train] table says."""
    from weibotag.posts.source import PostsSource
    from weibotag.taxonomy.tree import load
    from weibotag.training.network_taggers import NetworkOptions
    from weibotag.training.train import train_model

    encoder = train.encoder if not train.encoder or train.encoder.startswith("hf:") else str(base / train.encoder)
    return train_model(
        PostsSource(place(base, train.posts), tuple(train.columns.items()), train.where),
        load(base / train.taxonomy),
        base / train.model,
        settings,
        tagger=train.tagger,
        beyond=NetworkOptions(
            train.network, train.minutes, train.tasks, encoder=encoder, encoder_training=train.encoder_training
        ),
        memory=None if train.memory is None else parse_bytes(train.memory, "memory"),
        valid=train.valid,
        tune_seconds=train.tune_seconds,
        store=settings.store,
        quiet=quiet,
    )


def run_tagging(settings: "Pipeline", table: "TagSettings", base: Path, quiet: bool) -> dict[str, Any]:
    """Tag as the [tag] table says."""
    from weibotag.posts.source import PostsSource
    from weibotag.workflows.tag import tag

    model = None if table.model is None else base / table.model
    taxonomy = None if table.taxonomy is None else base / table.taxonomy
    plan = None if table.plan is None else base / table.plan
    choice, settings = choose_tagger(model, taxonomy, table.route, settings, plan)
    return tag(
        PostsSource(place(base, table.posts), tuple(table.columns.items()), table.where),
        str(base / table.out),
        choice,
        settings,
        run_folder=None if table.run is None else base / table.run,
        store=settings.store,
        max_rejects=table.max_rejects,
        deadline=None if table.deadline is None else parse_seconds(table.deadline, "deadline"),
        quiet=quiet,
    )


def place(base: Path, posts: str) -> str:
    """Return where posts are, relative to the pipeline file."""
    return posts if posts == "-" else str(base / posts)


def report(answer: dict[str, Any], line: str, as_json: bool, quiet: bool) -> None:
    """Print the answer as JSON to stdout, or as one line to stderr."""
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=1))
    else:
        say(line, quiet)


def say(line: str, quiet: bool) -> None:
    """Write a line to stderr unless quiet."""
    if not quiet:
        typer.echo(line, err=True)


def describe_model(about: dict[str, Any]) -> str:
    """Return what a trained model is, in one line."""
    posts, valid = about["posts"], about["valid"]
    return (
        f"trained on {posts['train']:,} posts, {about['pictures']['files']:,} pictures; "
        f"on the {posts['valid']:,} held out to choose thresholds on "
        f"micro-F1 {valid['micro_f1']:.3f}, ECE {valid['ece']:.3f}; "
        f"{about['seconds']:.0f} s"
    )


def tell_seen(pictures: dict[str, Any]) -> str:
    """Return how many pictures a run met, how many the store knew, and how reposts that were looked at compare."""
    reposts = ""
    if pictures.get("reposts"):
        reposts = f", {pictures['reposts']:,} reposts: {pictures['agreed']:,} of {pictures['checked']:,} checked agreed"
    return f"{pictures['files']:,} pictures ({pictures['reused']:,} known before{reposts})"


def describe_run(summary: dict[str, Any]) -> str:
    """Return what a run did, in one line."""
    seconds = sum(summary["seconds"].values())
    rejects = f", {summary['rejects']:,} rows rejected (see {summary['run']}/rejects.csv)" if summary["rejects"] else ""
    seen = f", {tell_seen(summary['pictures'])}" if summary["pictures"]["files"] else ""
    faults = f", {summary['with_errors']:,} posts with pictures that could not be used (column error)"
    posts = f"{summary['posts']:,} posts, {summary['tagged']:,} with tags"
    looks = f"; {describe_cascade(summary['cascade'])}" if "cascade" in summary else ""
    return f"{summary['out']}: {posts}{seen}{faults if summary['with_errors'] else ''}{rejects}{looks}; {seconds:.1f} s"


def describe_cascade(told: dict[str, Any]) -> str:
    """Return what a cascade has spent on looks, and what it kept, in one line."""
    spent, whole, sample = told["looking_seconds"], told["looking_at_everything_seconds"], told["sample"]
    kept = f", keeping {sample['kept']:.0%} of the gain (as {sample['posts']} posts tell)" if sample["posts"] else ""
    return f"looked for {spent:.1f} s where everything takes about {whole:.1f} s{kept}"

"""`weibotag train`, `pretrain`: from posts to a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from weibotag.cli.answer import Answer
from weibotag.cli.command import command
from weibotag.core.errors import MissingExtraError
from weibotag.core.files import BODY
from weibotag.core.option import Option, Output
from weibotag.extraction.requests import PicturesRequest, TrainRequest

if TYPE_CHECKING:
    from weibotag.taggers.model_folder import Candidate


@command("train")
def train(request: TrainRequest) -> Answer:
    """Train a tagger on labelled posts.

    Example: weibotag train posts.csv -t taxonomy.csv -o model --where "split = 'train'" --valid "split = 'valid'"
    """
    from weibotag.taggers.model_folder import CASCADE, FUSED
    from weibotag.training.dataset import is_short
    from weibotag.training.train import train_model

    about = train_model(request)
    posts, valid, tagger = about["posts"], about["valid"], about["tagger"]
    crossed = is_short(posts["valid"], posts["train"]) and tagger not in (FUSED, CASCADE)
    line = (
        f"{request.model}: trained on {posts['train']:,} posts, {about['pictures']['files']:,} pictures; on the "
        f"{posts['valid']:,} held out to choose thresholds on{', and the others by folds,' * crossed} "
        f"micro-F1 {valid['micro_f1']:.3f}, ECE {valid['ece']:.3f}; {about['seconds']:.0f} s"
    )
    tried = about["taggers"][tagger].get("tried", {}) if tagger in about["taggers"] else {}
    return Answer(about, "\n".join([*describe_tried(tagger, tried), line]))


def describe_tried(taken: str, tried: "Mapping[str, Candidate]") -> list[str]:
    """Return the table that a tagger was chosen from, cheapest first by the fixed order of costs."""
    if not tried:
        return []
    width = max(map(len, tried))
    rows = (
        f"{name:<{width}}  {own['micro_f1']:>8.3f}  {own['ece']:>5.3f}  {own['microseconds']:>7.0f}"
        for name, own in tried.items()
    )
    return [f"{'tried':<{width}}  micro-F1    ECE  µs/post", *rows, f"took {taken}"]


@command("pretrain")
def pretrain(
    request: PicturesRequest,
    out: Annotated[Path, Option("Folder of the body.", short="-o"), Output(beside=(".run",), kind=BODY)],
    network: Annotated[
        str, Option("vl-bert, visualbert, unicoder-vl, vilbert, lxmert, b2t2, fashionbert or sm-lstm.")
    ] = "vl-bert",
    epochs: Annotated[int, Ge(1), Option("Times that all posts are gone through at most.")] = 30,
    minutes: Annotated[float | None, Ge(0), Option("What training may take.", shown="as long as it gets better")] = None,
    device: Annotated[str, Option("cpu, cuda, or auto: CUDA where there is one.")] = "auto",
    threads: Annotated[int, Ge(1), Option("Threads of the network; above 1 a body can't be made again exactly.")] = 1,
) -> Answer:
    """Pretrain a network on posts that need no tags: masked characters, words and pictures, and what belongs together.

    Example: weibotag pretrain posts.csv -o body --network vl-bert --minutes 30
    """
    from dataclasses import asdict
    from importlib.util import find_spec

    from weibotag.extraction.pipeline_files import choose_pipeline

    if find_spec("torch") is None:
        raise MissingExtraError("pretrain", "torch")
    from weibotag.workflows.pretrain import pretrain_posts

    summary = pretrain_posts(
        request.source,
        out,
        choose_pipeline(request),
        network,
        epochs=epochs,
        minutes=minutes,
        device=device,
        threads=threads,
        quiet=request.quiet,
    )
    figures = ", ".join(f"{name} {value}" for name, value in summary.figures.items())
    line = f"{out}: {summary.network} on {summary.posts['train']:,} posts; {figures}; {summary.seconds:.0f} s"
    return Answer(asdict(summary), line)

"""`weibotag ocr`, `detect`, `faces`, `embed`, `encode`, `wordings`, `similarity`: what posts say, without tagging."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from weibotag.cli.answer import Answer
from weibotag.cli.command import Group, Later, command
from weibotag.cli.tag import describe_pictures, describe_rejects
from weibotag.core.errors import RequestError
from weibotag.core.option import Input, Option
from weibotag.extraction.requests import EncodeRequest, Gallery, StageRequest

if TYPE_CHECKING:
    from weibotag.workflows.run_stage import StageSummary

Backend = Annotated[str | None, Option("Library that looks; see docs/backends.md.", shown="the pipeline's")]
Weights = Annotated[str | None, Option("Model of the backend: a file, a folder or a name.", shown="the backend's"), Input()]


@command("ocr")
def ocr(request: StageRequest, backend: Backend = None) -> Answer:
    """Read the text in the pictures of posts.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag ocr posts.csv -o ocr.parquet
    """
    return look_with("ocr", request, backend=backend)


@command("detect")
def detect(
    request: StageRequest,
    backend: Backend = None,
    model: Weights = None,
    classes: Annotated[str | None, Option("Look for what this tag and those below it name.", metavar="TAG")] = None,
    taxonomy: Annotated[Path | None, Option("The tag tree that --classes is in.", short="-t"), Input()] = None,
) -> Answer:
    """Find the objects in the pictures of posts.

    With --classes a detector of an open vocabulary (YOLOE, YOLO-World, Grounding DINO) looks for the tags of a branch.

    Example: weibotag detect posts.csv -o objects.parquet --model yolo11n.onnx

    Example: weibotag detect posts.csv -o objects.parquet --backend transformers
    --model hf:IDEA-Research/grounding-dino-tiny --classes 美妆 -t taxonomies/weibo.csv
    """
    if (classes is None) != (taxonomy is None):
        raise RequestError("--classes and --taxonomy go together: the tag, and the tag tree that it is in")
    tree = None if taxonomy is None else str(taxonomy)
    return look_with("detect", request, backend=backend, model=model, branch=classes, taxonomy=tree)


@command("posts")
def faces(request: StageRequest, backend: Backend = None, gallery: Gallery = None) -> Answer:
    """Find the faces in the pictures of posts, and their names by a gallery; `weibotag faces gallery` makes one.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag faces posts.csv -o faces.parquet --gallery stars.gallery
    """
    return look_with("faces", request, gallery, backend=backend)


@command("embed")
def embed(request: StageRequest, backend: Backend = None, model: Weights = None) -> Answer:
    """Turn the pictures of posts into vectors.

    One row per picture or frame of each post. Pictures that the store knows are not looked at again.

    Example: weibotag embed posts.csv -o vectors.parquet
    """
    return look_with("embed", request, backend=backend, model=model)


@command("encode")
def encode(request: EncodeRequest) -> Answer:
    """Turn the texts of posts into vectors: texts that mean alike have a high cosine, in sixteen languages.

    One row per post. Nothing is downloaded, and nothing kept: a vector takes about a millisecond.

    Example: weibotag encode posts.csv -o vectors.parquet
    """
    from weibotag.workflows.encode import encode_posts

    summary = encode_posts(request)
    rejects = f", {summary['rejects']:,} rows rejected" if summary["rejects"] else ""
    text = f"{summary['out']}: {summary['rows']:,} rows by {summary['encoder']}{rejects}; {summary['seconds']:.1f} s"
    return Answer(summary, text)


@command("wordings")
def wordings(
    request: StageRequest,
    model: Annotated[
        Path | None, Option("Add the visual codes of a model of `weibotag train`.", short="-m"), Input()
    ] = None,
    taxonomy: Annotated[
        Path | None, Option("Add tag names that pictures show (embed by chineseclip).", short="-t"), Input()
    ] = None,
    gallery: Gallery = None,
) -> Answer:
    """Write what the pictures of posts say, as words: text, objects, faces and, with a model, visual codes. A row per post.

    Example: weibotag wordings posts.csv -o wordings.parquet

    Example: weibotag wordings posts.csv -m model -o wordings.jsonl
    """
    from weibotag.extraction.pipeline_files import choose_pipeline
    from weibotag.workflows.choose_tagger import choose_tagger
    from weibotag.workflows.run_stage import look_only

    pipeline, tagger = choose_pipeline(request, gallery), None
    if model is not None or taxonomy is not None:
        tagger, pipeline = choose_tagger(model, taxonomy, None, pipeline)
    else:
        pipeline = pipeline.for_words(named=False)
    return describe(look_only(request, "wordings", pipeline, tagger))


@command("similarity")
def similarity(
    request: StageRequest,
    model: Annotated[Path, Option("Folder that `weibotag pretrain` made, as with --network sm-lstm.", short="-m"), Input()],
) -> Answer:
    """Say how well the text and the pictures of each post belong together, from 0 to 1.

    Example: weibotag similarity posts.csv -m body -o similarity.csv
    """
    from weibotag.extraction.pipeline_files import choose_pipeline
    from weibotag.workflows.run_stage import measure_similarity

    summary = measure_similarity(
        request.source, request.out, model, choose_pipeline(request), run_folder=request.run, quiet=request.quiet
    )
    return describe(summary)


def look_with(stage: str, request: StageRequest, gallery: Path | None = None, **settings: str | None) -> Answer:
    """Look at the pictures with one stage; `settings` that are given go before what the pipeline says of it."""
    from weibotag.extraction.pipeline_files import choose_pipeline, with_stage
    from weibotag.workflows.run_stage import look_only

    given = {name: value for name, value in settings.items() if value is not None}
    return describe(look_only(request, stage, with_stage(choose_pipeline(request, gallery), stage, given)))


def describe(summary: "StageSummary") -> Answer:
    """Return what a run of a stage did."""
    counts = f"{summary['rows']:,} rows, {summary['posts']:,} posts, {describe_pictures(summary['pictures'])}"
    return Answer(summary, f"{summary['out']}: {counts}{describe_rejects(summary)}; {summary['seconds']:.1f} s")


faces_group = Group(
    "faces",
    "Find the faces in pictures; a gallery gives them names.",
    faces,
    Later("gallery", "weibotag.cli.gallery:group", "Give faces names: build, show or cut a gallery of known faces."),
    first="posts",
)

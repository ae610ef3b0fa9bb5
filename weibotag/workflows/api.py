"""weibotag from Python: models, taxonomies and stages on tables, asked as the commands are, by way of a temporary file."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from weibotag.core.errors import RequestError
from weibotag.core.file_names import is_address
from weibotag.extraction.pipeline_files import choose_pipeline, with_stage
from weibotag.extraction.requests import Request, StageRequest, TagRequest, TrainRequest
from weibotag.extraction.settings import explain
from weibotag.taggers.model_folder import ModelAbout, read_about
from weibotag.taxonomy.tree import Taxonomy as TagTree
from weibotag.taxonomy.tree import load
from weibotag.training.train import train_model
from weibotag.workflows.run_stage import look_only
from weibotag.workflows.tag import tag

if TYPE_CHECKING:
    import pandas as pd

# A table with the columns of a posts file: post_id, text, images … (docs/columns.md).
Posts: TypeAlias = "pa.Table | pd.DataFrame"
Asked = TypeVar("Asked", bound=Request)


@dataclass(frozen=True)
class Model:
    """A model in its folder; `about` is what its model.json says."""

    folder: Path
    about: ModelAbout

    @classmethod
    def load(cls, folder: str | Path) -> "Model":
        """Return the model in a folder; raises ModelError where there is none."""
        return cls(Path(folder), read_about(Path(folder)))

    @classmethod
    def train(cls, posts: "str | Path | Posts", taxonomy: str | Path, model: str | Path, **options: Any) -> "Model":
        """Train a model on labelled posts, a table or the path of posts, and write it to the folder `model`.

        `options` are the fields of `TrainRequest`: the options of `weibotag train`, with _ for -.
        """
        with _on_file(posts) as given:
            train_model(_ask(TrainRequest, given | {"taxonomy": taxonomy, "model": model} | options))
        return cls.load(model)

    def tag(self, posts: "Posts", **options: Any) -> pa.Table:
        """Return a row per post: the table "tags" of docs/columns.md.

        `options` are the fields of `TagRequest`: the options of `weibotag tag`, with _ for -.
        """
        return _tag(posts, model=self.folder, **options)


@dataclass(frozen=True)
class Taxonomy:
    """A tag tree, and the tagger that needs no labels: by the words of the tree alone."""

    place: Path
    tree: TagTree

    @classmethod
    def load(cls, place: str | Path) -> "Taxonomy":
        """Return the tag tree of a file (CSV, JSON or YAML); raises TaxonomyError for one that can't be used."""
        return cls(Path(place), load(Path(place)))

    def tag(self, posts: "Posts", **options: Any) -> pa.Table:
        """Return a row per post, as `Model.tag` does."""
        return _tag(posts, taxonomy=self.place, **options)


def ocr(pictures: "Iterable[str | Path] | Posts", **options: Any) -> pa.Table:
    """Return the text in pictures: a row per picture or frame, as `weibotag ocr` writes it.

    `pictures` are paths, or a table of posts that names them. `options` are the fields of `StageRequest` (store, workers,
    pipeline, reuse …), and settings of the stage, such as backend and min_score.
    """
    return _look("ocr", pictures, options)


def detect(pictures: "Iterable[str | Path] | Posts", **options: Any) -> pa.Table:
    """Return the objects in pictures, as `ocr` does the text."""
    return _look("detect", pictures, options)


def faces(pictures: "Iterable[str | Path] | Posts", *, gallery: str | Path | None = None, **options: Any) -> pa.Table:
    """Return the faces in pictures, as `ocr` does the text; a gallery gives them names."""
    return _look("faces", pictures, options, None if gallery is None else Path(gallery))


def embed(pictures: "Iterable[str | Path] | Posts", **options: Any) -> pa.Table:
    """Return the vectors of pictures, as `ocr` does the text."""
    return _look("embed", pictures, options)


def _tag(posts: "Posts", **options: Any) -> pa.Table:
    with _on_file(posts) as given:
        out = Path(given["posts"]).with_name("out.parquet")
        tag(_ask(TagRequest, given | {"out": str(out)} | options))
        return pq.read_table(out)


def _look(stage: str, pictures: Any, options: dict[str, object], gallery: Path | None = None) -> pa.Table:
    known = {name: options.pop(name) for name in [*options] if name in StageRequest.model_fields}
    if not hasattr(pictures, "columns"):
        paths = list(dict.fromkeys(map(str, pictures)))
        pictures = pa.table({"post_id": paths, "images": [[path] for path in paths]})
        # Whoever calls has named these paths, not some post.
        known = {"media_root": Path.cwd().anchor} | known
    with _on_file(pictures) as given:
        out = Path(given["posts"]).with_name("out.parquet")
        request = _ask(StageRequest, given | {"out": str(out)} | known)
        look_only(request, stage, with_stage(choose_pipeline(request, gallery), stage, options))
        return pq.read_table(out)


def _ask(model: type[Asked], fields: dict[str, Any]) -> Asked:
    """Return a request, quiet unless asked otherwise; raises RequestError for a field that is unknown or does not fit."""
    try:
        return model(**{"quiet": True} | fields)
    except ValidationError as error:
        raise RequestError(explain(error, model, model.__name__)) from error


@contextmanager
def _on_file(posts: Any) -> Iterator[dict[str, str]]:
    """Give fields of a request for posts: their path; of a table that of a temporary file of it, in which pictures have
    their whole paths, and the working folder as media root.
    """
    if isinstance(posts, str | Path):
        yield {"posts": str(posts)}
        return
    table = posts if isinstance(posts, pa.Table) else pa.Table.from_pandas(posts, preserve_index=False)
    for name in {"images", "videos"}.intersection(table.column_names):
        places = pa.array([_place(cell) for cell in table[name].to_pylist()], pa.list_(pa.string()))
        table = table.set_column(table.column_names.index(name), name, places)
    with TemporaryDirectory(prefix="weibotag-") as folder:
        path = Path(folder) / "posts.parquet"
        pq.write_table(table, path)
        yield {"posts": str(path), "media_root": str(Path.cwd())}


def _place(cell: str | Iterable[str] | None) -> list[str]:
    names = cell.split(";") if isinstance(cell, str) else list(cell or [])
    return [name if is_address(name) else str(Path(name).absolute()) for name in map(str.strip, names) if name]

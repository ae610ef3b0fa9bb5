"""Texts of posts to vectors: a row per post, nothing kept between runs."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from weibotag.core.schema import VECTOR, arrow_schema
from weibotag.extraction.pipeline_files import choose_encoder
from weibotag.extraction.requests import EncodeRequest
from weibotag.features.plain_text import make_texts_plain
from weibotag.features.text_vectors import Encoder, open_encoder
from weibotag.posts.passing import pass_through, set_apart
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.writer import find_format, write_tables

# Posts whose vectors are in memory at once.
ROWS = 2_000


class EncodeSummary(TypedDict):
    """What was encoded: rows written, rows rejected, the encoder and its fingerprint, seconds, the file."""

    rows: int
    rejects: int
    encoder: str
    fingerprint: str
    seconds: float
    out: str


def encode_posts(request: EncodeRequest) -> EncodeSummary:
    """Write a row of schema "encode" for each post, its own columns after; return what was done."""
    started = perf_counter()
    find_format(Path(request.out))
    settings = choose_encoder(request)
    encoder = open_encoder(settings.model)
    with Rejects() as rejects:
        tables = _encode_tables(read_posts(request.source, rejects, ROWS), encoder, settings.most_characters)
        first = next(tables)
        rows = write_tables(chain([first], tables), request.out, first.schema.remove_metadata())
    return {
        "rows": rows,
        "rejects": rejects.count,
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "seconds": round(perf_counter() - started, 3),
        "out": request.out,
    }


def _encode_tables(tables: Iterator[pa.Table], encoder: Encoder, most: int) -> Iterator[pa.Table]:
    for table in tables:
        posts = set_apart(make_texts_plain(table))
        vectors = encoder([text or "" for text in posts["text"].to_pylist()], most).astype(np.float16)
        found = np.any(vectors, axis=1).tolist()
        columns = {
            "post_id": posts["post_id"],
            "encode_vector": pa.array([one if has else None for one, has in zip(vectors, found, strict=True)], VECTOR),
            "encode_error": pa.array([None if has else "no text" for has in found], pa.string()),
        }
        yield pass_through(pa.table(columns, schema=arrow_schema("encode")), posts)

"""Lists what a stage found for each picture of each post, from one row per distinct picture."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.schema import arrow_schema

# What to do where no reason is known.
AGAIN = "give the same command again"


def pictures_schema(stage: str) -> pa.Schema:
    """Return the columns of a stage's output: those of links, then of media, then of the stage, each once."""
    fields = [field for table in ("links", "media", stage) for field in arrow_schema(table)]
    return pa.schema({field.name: field for field in fields}.values())


def list_pictures(links: pa.Table, media: pa.Table, found: pa.Table, stage: str, unseen: Mapping[str, str]) -> pa.Table:
    """Return a row of `pictures_schema` for each frame of each link, in their order; a picture that has none has one row.

    `media` are the frames of the links' files, `found` (schema of the stage) what was seen in them, `unseen` why files were
    not looked at, by file_id.
    """
    frames: dict[str, list[int | None]] = {}
    for row, file_id in enumerate(media["file_id"].to_pylist()):
        frames.setdefault(file_id, []).append(row)
    pairs = [
        (link, frame) for link, file_id in enumerate(links["file_id"].to_pylist()) for frame in frames.get(file_id, [None])
    ]
    link_rows = links.take(pa.array([link for link, _ in pairs], pa.int64()))
    media_rows = media.drop_columns("file_id").take(pa.array([frame for _, frame in pairs], pa.int64()))
    row_of = {media_id: row for row, media_id in enumerate(found["media_id"].to_pylist())}
    seen = pa.array([row_of.get(media_id) for media_id in media_rows["media_id"].to_pylist()], pa.int64())
    found_rows = found.drop_columns("media_id").take(seen)
    columns = {name: table[name] for table in (link_rows, media_rows, found_rows) for name in table.column_names}
    why = pa.array(
        [f"not looked at: {unseen.get(file_id, AGAIN)}" for file_id in columns["file_id"].to_pylist()], pa.string()
    )
    looked, read = pc.is_valid(columns["media_id"]), pc.is_null(columns["media_error"])
    no_frame = pc.and_(pc.is_valid(columns["file_id"]), pc.and_(read, pc.invert(looked)))
    columns["media_error"] = pc.if_else(no_frame, why, columns["media_error"])
    not_found = pc.and_(pc.is_null(seen), pc.and_(read, looked))
    columns[f"{stage}_error"] = pc.if_else(not_found, why, columns[f"{stage}_error"])
    return pa.table(columns).select(pictures_schema(stage).names).cast(pictures_schema(stage))

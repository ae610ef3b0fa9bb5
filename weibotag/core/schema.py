"""Every table of the project: column, Arrow type, owner, meaning with its unit. The only place where a column is declared.

A score is a number from 0 to 1; a box is x y width height, landmarks are x y, in pixels of the picture; a vector has length
1; what can't be known is null; a column whose name ends in `error` says why, and is null where all went well.
"""

from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from weibotag.core.kinds import KEYWORDS


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, what part of the work fills it, and what it holds (with its unit)."""

    name: str
    type: pa.DataType
    owner: str
    description: str


STRINGS = pa.list_(pa.string())
BOX = pa.list_(pa.float32())
OCR_LINE = pa.struct([("text", pa.string()), ("score", pa.float32()), ("box", BOX)])
VECTOR = pa.list_(pa.float16())
FACE = pa.struct([("score", pa.float32()), ("box", BOX), ("landmarks", BOX), ("vector", VECTOR), ("name", pa.string())])
OBJECT = pa.struct([("label", pa.string()), ("label_zh", pa.string()), ("score", pa.float32()), ("box", BOX)])
CLASS = pa.struct([("number", pa.int32()), ("score", pa.float32())])
PLACE = [("media_id", pa.string()), ("box", BOX)]
WORDING = pa.struct([("word", pa.string()), ("kind", pa.string()), ("score", pa.float32()), ("count", pa.int32()), *PLACE])
TAG = pa.struct([("id", pa.string()), ("score", pa.float32())])
KEYWORD = pa.struct([("keyword", pa.string()), ("score", pa.float32()), ("source", pa.string())])
EVIDENCE = pa.struct({"tag_id": pa.string(), "kind": pa.string(), "word": pa.string(), "media_id": pa.string(), "box": BOX})

TABLES: dict[str, tuple[Column, ...]] = {
    "posts": (
        Column("post_id", pa.string(), "posts", "id of the post, always text"),
        Column("text", pa.string(), "posts", "text of the post; empty when there is none"),
        Column("images", STRINGS, "posts", "paths of its pictures, as given"),
        Column("videos", STRINGS, "posts", "paths of its clips, as given"),
        Column("author", pa.string(), "posts", "name or id of the author; empty when unknown"),
        Column("channel", pa.string(), "posts", "channel that the post was published in; empty when unknown"),
        Column("created_at", pa.string(), "posts", "time of publication, as given"),
        Column("tags", STRINGS, "posts", "tag ids given by hand; null when the post was not labelled"),
        Column("keywords", STRINGS, "posts", "keywords given by hand; null when there are none"),
        Column("folder", pa.string(), "posts", "folder that relative picture paths start from"),
    ),
    "rejects": (
        Column("file", pa.string(), "posts", "file of the row that could not be used"),
        Column("line", pa.int64(), "posts", "line (CSV, TSV, JSONL), row or record (other kinds) in it, from 1"),
        Column("post_id", pa.string(), "posts", "id of the post where it could be read"),
        Column("reason", pa.string(), "posts", "why, in one line"),
    ),
    "links": (
        Column("post_id", pa.string(), "media", "id of the post"),
        Column("position", pa.int32(), "media", "place of the picture in the post, from 0"),
        Column("path", pa.string(), "media", "path of the file"),
        Column("file_id", pa.string(), "media", "sha256 of the file's bytes, hex; null when it could not be read"),
        Column("link_error", pa.string(), "media", "why the file could not be read; null when it could"),
    ),
    "media": (
        Column("file_id", pa.string(), "media", "sha256 of the file's bytes, hex"),
        Column("media_id", pa.string(), "media", "one picture or frame: file_id, or file_id#k for frame k > 0"),
        Column("frame", pa.int32(), "media", "number of the frame in the file (of a clip: its time times its rate), from 0"),
        Column("time_ms", pa.int32(), "media", "when the frame is shown, milliseconds from the start"),
        Column("format", pa.string(), "media", "file format found in the bytes (JPEG, PNG, GIF, MP4 …)"),
        Column("width", pa.int32(), "media", "width after rotation, pixels"),
        Column("height", pa.int32(), "media", "height after rotation, pixels"),
        Column("media_error", pa.string(), "media", "why there is no picture; null when there is one"),
    ),
    "frames": (
        Column("media_id", pa.string(), "media", "one picture or frame"),
        Column("width", pa.int32(), "media", "width, pixels"),
        Column("height", pa.int32(), "media", "height, pixels"),
        Column("rgb", pa.large_binary(), "media", "height x width x 3 bytes, RGB, row by row"),
    ),
    "ocr": (
        Column("media_id", pa.string(), "media", "one picture or frame"),
        Column("ocr_lines", pa.list_(OCR_LINE), "ocr", "lines in reading order; box here: x1 y1 … x4 y4"),
        Column("ocr_error", pa.string(), "ocr", "why there are no lines; null when the picture was read"),
    ),
    "faces": (
        Column("media_id", pa.string(), "media", "one picture or frame"),
        Column("faces_found", pa.list_(FACE), "faces", "faces; landmarks: five points or none; vector and name may be null"),
        Column("faces_error", pa.string(), "faces", "why there are no faces; null when the picture was looked at"),
    ),
    "detect": (
        Column("media_id", pa.string(), "media", "one picture or frame"),
        Column("detect_objects", pa.list_(OBJECT), "detect", "objects, best first; label_zh: the label in Chinese, or null"),
        Column("detect_error", pa.string(), "detect", "why there are no objects; null when the picture was looked at"),
    ),
    "near": (
        Column("file_id", pa.string(), "media", "sha256 of the file's bytes, hex"),
        Column("near_hash", pa.uint64(), "near", "perceptual hash; null when the file is not one picture"),
        Column("near_ratio", pa.float32(), "near", "width over height"),
        Column("near_thumbnail", pa.binary(), "near", "64 x 64 bytes of grey"),
    ),
    "setbacks": (
        Column("file_id", pa.string(), "media", "sha256 of the bytes of a file that stopped a worker, hex"),
        Column("setback", pa.string(), "setbacks", "how: the time or memory that it took, or the signal"),
    ),
    "same": (
        Column("file_id", pa.string(), "near", "sha256 of a file that was not looked at, hex"),
        Column("same_as", pa.string(), "near", "sha256 of the file whose findings it was given, hex"),
        Column("same_checked", pa.bool_(), "near", "whether it was looked at all the same, to see whether that was right"),
    ),
    "embed": (
        Column("media_id", pa.string(), "media", "one picture or frame"),
        Column("embed_vector", VECTOR, "embed", "picture vector, unit length in each of its blocks"),
        Column("embed_patches", pa.list_(VECTOR), "embed", "vectors of a grid's cells, row by row; null without a grid"),
        Column("embed_classes", pa.list_(CLASS), "embed", "ten likeliest classes of ImageNet, by number from 0; or empty"),
        Column("embed_error", pa.string(), "embed", "why there is no vector; null when there is one"),
    ),
    "encode": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("encode_vector", VECTOR, "encode", "vector of its text, unit length"),
        Column("encode_error", pa.string(), "encode", "why there is no vector; null when there is one"),
    ),
    "wordings": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("wordings", pa.list_(WORDING), "wordings", "words of its pictures, by kind; count: frames with it"),
        Column("wordings_error", pa.string(), "wordings", "pictures that could not be used, with reasons; else null"),
    ),
    "similarity": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("similarity", pa.float32(), "similarity", "how well its text and pictures belong together, 0 to 1, or null"),
        Column("error", pa.string(), "similarity", "why it is null, or pictures that could not be used; else null"),
    ),
    "channel_keywords": (
        Column("channel", pa.string(), "keywords", "channel whose posts mention it; empty: posts without a channel"),
        Column("keyword", pa.string(), "keywords", "the keyword, as it is written first"),
        Column("posts", pa.int64(), "keywords", "posts of the channel that mention it, outside of longer keywords"),
        Column("score", pa.float32(), "keywords", "how much of a keyword it is, from 0 up, comparable within a file"),
        Column("sources", STRINGS, "keywords", f"where it was found: text, {KEYWORDS}"),
        Column("trend", pa.float32(), "keywords", "logarithm of its growth since the earlier time; null without one"),
        Column("is_new", pa.bool_(), "keywords", "whether the earlier time does not have it; null without one"),
    ),
    "clusters": (
        Column("channel", pa.string(), "keywords", "channel of the keyword"),
        Column("keyword", pa.string(), "keywords", "a keyword of that channel"),
        Column("cluster", pa.string(), "keywords", "its cluster, named by the member that most posts mentioned at first"),
        Column("posts", pa.int64(), "keywords", "posts of the channel that mention the keyword"),
    ),
    "picture_keywords": (
        Column("channel", pa.string(), "keywords", "channel of the posts that it was learnt from; empty: those without one"),
        Column("keyword", pa.string(), "keywords", "the keyword, as it is written first"),
        Column("posts", pa.int64(), "keywords", "posts of the channel that have it and whose pictures say something"),
        Column("threshold", pa.float32(), "keywords", "score, 0 to 1, from which it is given; null: it is refused"),
        Column("precision", pa.float32(), "keywords", "share of right ones among held-out posts that it would be given to"),
        Column("recall", pa.float32(), "keywords", "share of the posts that have it that it would be given to"),
        Column("refused", pa.string(), "keywords", "why pictures can't be trusted to show it; null when they can"),
    ),
    "findings": (
        Column("kind", pa.string(), "taxonomy", "what was found: dead, containment, overlap, synonym, split, wrong …"),
        Column("tag", pa.string(), "taxonomy", "id of the tag"),
        Column("other", pa.string(), "taxonomy", "id of the other tag; null where there is one only"),
        Column("strength", pa.float32(), "taxonomy", "how strong it is, 0 to 1"),
        Column("posts", pa.int64(), "taxonomy", "posts that carry the tag, or one below it"),
        Column("other_posts", pa.int64(), "taxonomy", "posts that carry the other tag; null where there is none"),
        Column("together", pa.int64(), "taxonomy", "posts that carry both tags, or whose labels are in doubt; else null"),
        Column("reason", pa.string(), "taxonomy", "what it was found by, in one line"),
        Column("evidence", STRINGS, "taxonomy", "ids of posts that show it"),
    ),
    "proposals": (
        Column("accept", pa.string(), "taxonomy", "to be filled in: yes or no; empty means no"),
        Column("action", pa.string(), "taxonomy", "merge, alias, move, split or relabel"),
        Column("tag", pa.string(), "taxonomy", "id of the tag that is merged, moved, split or in doubt"),
        Column("other", pa.string(), "taxonomy", "id of the tag that it is merged into or moved below"),
        Column("post_id", pa.string(), "taxonomy", "id of the post that is relabelled"),
        Column("from", pa.string(), "taxonomy", "tag ids that the post loses"),
        Column("to", pa.string(), "taxonomy", "tag ids that the post gains; of a split the name of the new tag"),
        Column("confidence", pa.float32(), "taxonomy", "how likely it is right, 0 to 1"),
        Column("reason", pa.string(), "taxonomy", "why it is proposed, in one line"),
        Column("evidence", STRINGS, "taxonomy", "ids of posts that show it"),
    ),
    "tags": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("tags", pa.list_(TAG), "tag", "tag ids with calibrated scores 0 to 1, highest first, parents included"),
        Column("keywords", pa.list_(KEYWORD), "keywords", f"keywords, best first; source: text, {KEYWORDS}"),
        Column("route", pa.string(), "tag", "what answered, + the stages that a cascade asked, +late when time ran out"),
        Column("evidence", pa.list_(EVIDENCE), "tag", "words that spoke for a tag, what a network looked at, and where"),
        Column("error", pa.string(), "tag", "what could not be used of this post; null when all was"),
    ),
    "codes": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("codes", STRINGS, "codes", "semantic codes of its vectors, each with all coarser ones: s0_17, s0_17_203 …"),
    ),
    "dictionary": (
        Column("number", pa.int64(), "features", "number of the feature, from 1; it never changes"),
        Column("kind", pa.string(), "features", "tag, keyword, cluster, code or route"),
        Column("field", pa.string(), "features", "field for field-aware machines: the kind, of tags with the level (tag2)"),
        Column("name", pa.string(), "features", "id of the tag, the keyword, cluster, code or route itself"),
    ),
    "features": (
        Column("post_id", pa.string(), "posts", "id of the post"),
        Column("label", pa.float64(), "posts", "what `--label` names; without it there is no such column"),
        Column("features", pa.list_(pa.int64()), "features", "numbers of its features, ascending"),
        Column("fields", pa.list_(pa.int64()), "features", "number of the field of each feature, from 1"),
        Column("values", pa.list_(pa.float32()), "features", "value of each: its score, 0 to 1; of a code or route 1"),
    ),
}


@cache
def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table of `TABLES`."""
    return pa.schema([(column.name, column.type) for column in TABLES[table]])


def cast(data: pa.Table, table: str) -> pa.Table:
    """Return `data` with exactly the declared columns of `table`, in order, cast; absent ones become nulls."""
    known = {name: data[name] for name in data.column_names}
    columns = [known.get(field.name, pa.nulls(len(data))).cast(field.type) for field in arrow_schema(table)]
    return pa.table(columns, schema=arrow_schema(table))

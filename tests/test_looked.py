"""Which stages have looked at which files and posts."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.extraction.coverage import mark_files, mark_posts

FILES = ["a", "b", "c", "d"]


@settings(deadline=None)
@given(st.data())
def test_a_post_is_seen_by_a_stage_when_all_its_pictures_are(data: st.DataObject) -> None:
    # A file of two frames, files of one, one that is no picture, one that nobody has decoded.
    frames = [("a", "a", None), ("a", "a#1", None), ("b", "b", None), ("c", "c", "no picture")]
    media = pa.table(
        {name: [row[place] for row in frames] for place, name in enumerate(("file_id", "media_id", "media_error"))}
    )
    media = media.set_column(2, "media_error", media["media_error"].cast(pa.string()))
    lacks = [data.draw(st.sets(st.sampled_from(["a", "a#1", "b"]))) for _ in range(2)]
    coverage = mark_files(pa.array(FILES), media, [pa.array(sorted(own), pa.string()) for own in lacks])
    seen = {
        "a": [not own & {"a", "a#1"} for own in lacks],
        "b": [not own & {"b"} for own in lacks],
        "c": [True, True],
        "d": [False, False],
    }
    for file, bits in zip(FILES, coverage.bits.tolist(), strict=True):
        assert [bool(bits >> stage & 1) for stage in range(2)] == seen[file]
    assert coverage.decoded.tolist() == [True, True, True, False]
    assert coverage.usable.tolist() == [True, True, False, True]
    posts = {f"p{number}": data.draw(st.lists(st.sampled_from([*FILES, None]), max_size=4)) for number in range(4)}
    links = pa.table(
        {
            "post_id": pa.array([post for post, own in posts.items() for _ in own], pa.string()),
            "file_id": pa.array([file for own in posts.values() for file in own], pa.string()),
        }
    )
    bits, has = mark_posts(pa.array(list(posts)), links, coverage, 3)
    for (_, own), found, pictured in zip(posts.items(), bits.tolist(), has.tolist(), strict=True):
        usable = [file for file in own if file in ("a", "b", "d")]
        assert pictured == bool(usable)
        expected = [all(seen[file][stage] for file in usable) for stage in range(2)] if usable else [False, False]
        assert [bool(found >> stage & 1) for stage in range(2)] == expected

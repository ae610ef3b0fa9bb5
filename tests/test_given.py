from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.errors import RequestError
from weibotag.core.schema import WORDING
from weibotag.extraction.pipeline_files import choose_pipeline, read_pipeline
from weibotag.extraction.requests import TagRequest
from weibotag.extraction.settings import Pipeline
from weibotag.features.post_arrays import read_arrays
from weibotag.posts.supplied_words import add_given, split_words
from weibotag.taggers.fasttext import write_documents

SEEN = {"word": "猫", "kind": "object", "score": 0.9, "count": 2, "media_id": "m", "box": [1.0, 2.0, 3.0, 4.0]}


def posts(**columns: list) -> pa.Table:
    total = len(next(iter(columns.values())))
    return pa.table({name: [""] * total for name in ("text", "author", "channel")} | columns)


def spoken(table: pa.Table) -> list[list[tuple[str, str]]]:
    """Return the kinds and words of each post's wordings."""
    return [[(one["kind"], one["word"]) for one in own or ()] for own in table["wordings"].to_pylist()]


def test_words_of_columns_become_wordings() -> None:
    table = posts(ocr_text=["买一送一\n今天 only", None], seen=["people woman  microphone", ""], star=["Zhang San;李四", ""])
    given_ = add_given(table, {"ocr": "ocr_text", "object": "seen", "face": "star"})
    assert spoken(given_)[0] == [
        ("ocr", "买一送一"),
        ("ocr", "今天 only"),
        *(("object", word) for word in ("people", "woman", "microphone")),
        *(("face", word) for word in ("Zhang San", "李四")),
    ]
    assert spoken(given_)[1] == []
    assert given_.select(table.column_names) == table
    assert given_["wordings"].type == pa.list_(WORDING)
    first = given_["wordings"][0].as_py()[0]
    assert first == {"word": "买一送一", "kind": "ocr", "score": 1.0, "count": 1, "media_id": None, "box": None}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("hot dog; cat ,狗，鸟、", ["hot dog", "cat", "狗", "鸟"]),
        ('["hot dog", "cat"]', ["hot dog", "cat"]),
        ("  one  ", ["one"]),
        (" ;, ", []),
    ],
)
def test_a_cell_is_parted_at_its_marks_or_else_at_its_blanks(cell: str, words: list[str]) -> None:
    assert split_words(cell, "object") == words


def test_lists_are_taken_as_they_are() -> None:
    seen = pa.array([["hot dog", "a;b"], None, [None, " ", "猫"]], pa.list_(pa.string()))
    table = add_given(posts(text=["", "", ""], seen=seen), {"object": "seen"})
    assert spoken(table) == [[("object", "hot dog"), ("object", "a;b")], [], [("object", "猫")]]


CELLS = st.lists(st.text("ab;\n ", max_size=6), min_size=4, max_size=4)


@given(CELLS, st.lists(st.sampled_from([None, [], [SEEN], [SEEN, SEEN]]), min_size=4, max_size=4), st.integers(0, 3))
def test_what_pictures_said_stays_first(cells: list[str], said: list[list | None], start: int) -> None:
    table = posts(print=cells).append_column("wordings", pa.array(said, pa.list_(WORDING))).slice(start)
    wordings = add_given(table, {"ocr": "print"})["wordings"].to_pylist()
    for got, old, cell in zip(wordings, said[start:], cells[start:], strict=True):
        before = old or []
        assert [{**one, "score": 0.9} if one["media_id"] else one for one in got[: len(before)]] == before
        assert [one["word"] for one in got[len(before) :]] == split_words(cell, "ocr")


def test_taggers_read_them() -> None:
    table = add_given(posts(text=["看"], ocr_text=["送"], seen=["woman"]), {"ocr": "ocr_text", "object": "seen"})
    assert write_documents(table)[0].split() == ["看", "|", "送", "object_woman"]
    as_arrays = read_arrays(table).parts
    assert as_arrays["words"].values.to_pylist() == ["object_woman"]
    assert not as_arrays["word_boxes"].values.any()


def test_a_column_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"words ocr=ocr_txt: .*did you mean 'ocr_text'\?"):
        add_given(posts(ocr_text=[""]), {"ocr": "ocr_txt"})
    with pytest.raises(RequestError, match="there are: text, author, channel, ocr_text"):
        add_given(posts(ocr_text=[""]), {"ocr": "qqq"})


def test_a_column_of_something_else_is_refused() -> None:
    with pytest.raises(RequestError, match="expected text, or a list of texts"):
        add_given(posts(seen=[{"a": 1}]), {"object": "seen"})


def test_pipelines_and_options_say_which_columns(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[words]\nocr = 'ocr_text'\n", encoding="utf-8")
    pipeline = read_pipeline(str(path))
    assert pipeline.words == {"ocr": "ocr_text"}
    assert not pipeline.says_how_to_look()
    assert pipeline.with_words({}) == pipeline
    request = TagRequest.model_validate(
        {"posts": "p.csv", "out": "o.csv", "pipeline": str(path), "words": ["object=seen", "ocr=print"]}
    )
    assert choose_pipeline(request).words == {"ocr": "print", "object": "seen"}
    assert Pipeline().words == {}
    with pytest.raises(
        RequestError, match="--words ocrr=x: expected one of ocr, object, face, clip, looks, guess before the ="
    ):
        pipeline.with_words({"ocrr": "x"})
    path.write_text("[words]\nocrr = 'ocr_text'\n", encoding="utf-8")
    with pytest.raises(RequestError, match="'clip', 'looks' or 'guess'; found 'ocrr'"):
        read_pipeline(str(path))

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.schema import arrow_schema, cast
from weibotag.features.visual_codes import LEAST_PROBABILITY, MOST_WORDS, TEMPLATES, ZeroShot, encode_names, open_zero_shot
from weibotag.taxonomy.tree import Tag, Taxonomy

NAMES = ("美食", "足球", "猫", "手机", "{}")
WIDTH = 16


def taxonomy(*names: str) -> Taxonomy:
    return Taxonomy(Tag(f"t{number}", None, name, (), (), number) for number, name in enumerate(names))


class Encoder:
    """Unit vectors that depend on the text; those that hold a name lie near that name's."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, float]:
        self.asked += texts
        vectors = np.stack([self.place(text) for text in texts]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 100.0

    def place(self, text: str) -> np.ndarray:
        name = next(name for name in NAMES if name in text)
        return np.eye(WIDTH)[NAMES.index(name)] + 0.05 * np.random.default_rng(len(text)).normal(size=WIDTH)


def embed_table(vectors: Sequence[np.ndarray | None]) -> pa.Table:
    columns = {
        "media_id": [f"m{number}" for number in range(len(vectors))],
        "embed_vector": [None if vector is None else vector.astype(np.float16) for vector in vectors],
        "embed_error": ["broken" if vector is None else None for vector in vectors],
    }
    return cast(pa.table(columns), "embed")


@pytest.fixture(scope="module")
def zero_shot() -> ZeroShot:
    return encode_names(NAMES, Encoder())


def test_a_name_is_said_in_all_templates_and_its_vector_has_unit_length(zero_shot: ZeroShot) -> None:
    encoder = Encoder()
    encode_names(("猫", "{}"), encoder)
    assert encoder.asked == [*(template.replace("{}", "猫") for template in TEMPLATES), *TEMPLATES]
    assert np.allclose(np.linalg.norm(zero_shot.vectors, axis=1), 1)


def test_a_picture_is_called_what_it_is_near_to(zero_shot: ZeroShot) -> None:
    said = zero_shot.words(embed_table([zero_shot.vectors[1], None, zero_shot.vectors[2]]))
    assert set(said) == {"m0", "m2"}
    (name, kind, score, _), *others = said["m0"]
    assert (name, kind) == ("足球", "clip")
    assert score > 0.9
    assert not others
    assert said["m2"][0][0] == "猫"


def test_a_picture_between_many_names_has_none_of_them(zero_shot: ZeroShot) -> None:
    many = ZeroShot(tuple(map(str, range(30))), np.eye(30, dtype=np.float32), 100.0)
    assert many.words(embed_table([np.full(30, 30**-0.5)])) == {}
    two = zero_shot.vectors[0] + zero_shot.vectors[3]
    said = zero_shot.words(embed_table([two / np.linalg.norm(two)]))["m0"]
    assert {one.word for one in said} == {"美食", "手机"}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40))
def test_words_are_few_ordered_likely_and_of_their_picture_alone(zero_shot: ZeroShot, seed: int, count: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    soft = ZeroShot(zero_shot.names, zero_shot.vectors, 10.0)
    together = soft.words(embed_table(list(vectors)))
    for number, vector in enumerate(vectors):
        alone = soft.words(embed_table([vector])).get("m0")
        assert alone == together.get(f"m{number}")
        scores = [one.score for one in alone or ()]
        assert len(scores) <= MOST_WORDS
        assert scores == sorted(scores, reverse=True)
        assert all(LEAST_PROBABILITY <= score <= 1 for score in scores)
    assert np.allclose(soft.score(vectors).sum(axis=1), 1, atol=0.001)


def test_no_pictures_have_no_words(zero_shot: ZeroShot) -> None:
    assert zero_shot.words(arrow_schema("embed").empty_table()) == {}


def test_the_vectors_of_a_taxonomy_are_made_once(tmp_path: Path) -> None:
    encoder = Encoder()
    tree = taxonomy("猫", "足球", "猫")
    first = open_zero_shot(tree, "abc", encoder, tmp_path / "store")
    assert first.names == ("猫", "足球")
    asked = len(encoder.asked)
    assert asked == 2 * len(TEMPLATES)
    again = open_zero_shot(tree, "abc", encoder, tmp_path / "store")
    assert len(encoder.asked) == asked
    assert again.names == first.names
    assert again.scale == first.scale
    assert np.array_equal(again.vectors, first.vectors)
    open_zero_shot(tree, "other", encoder, tmp_path / "store")
    open_zero_shot(taxonomy("猫", "手机"), "abc", encoder, tmp_path / "store")
    assert len(encoder.asked) == 3 * asked
    assert len(list((tmp_path / "store").iterdir())) == 3


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    first = open_zero_shot(taxonomy("猫"), "abc", Encoder(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    again = open_zero_shot(taxonomy("猫"), "abc", Encoder(), tmp_path)
    assert np.array_equal(again.vectors, first.vectors)
    assert open_zero_shot(taxonomy("猫"), "abc", Encoder(), tmp_path).scale == 100.0

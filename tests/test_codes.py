import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.schema import arrow_schema
from weibotag.features.visual_codes import Codebook, fit, stack_vectors

LEVELS = np.ones(3, np.int64)
DRAW = np.random.default_rng(3)


def make_pictures(count: int, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Three kinds of pictures, told apart by their first three numbers, under a lot of noise in the others."""
    kinds = np.arange(count) % 3
    vectors = DRAW.normal(size=(count, width)).astype(np.float16)
    vectors[:, :3] += 4 * np.eye(3, dtype=np.float16)[kinds]
    return vectors, kinds


def test_codes_part_what_the_tags_part() -> None:
    vectors, kinds = make_pictures(240)
    fitted = fit(vectors, csr_matrix(np.eye(3, dtype=np.float32)[kinds]), LEVELS)
    assert fitted is not None
    book, own = fitted
    assert len(own) == len(vectors)
    fresh, fresh_kinds = make_pictures(90)
    kinds_of: dict[str, list[int]] = {}
    for words, kind in zip(own, kinds, strict=True):
        kinds_of.setdefault(words[0], []).append(int(kind))
    guesses = [max(set(kinds_of.get(words[0], [-1])), key=kinds_of.get(words[0], [-1]).count) for words in book.codes(fresh)]
    assert np.mean(np.array(guesses) == fresh_kinds) > 0.8


def test_the_likeliest_tag_of_each_level_is_a_word_and_rare_tags_count_as_well() -> None:
    kinds = np.repeat(np.arange(3), (300, 60, 20))
    vectors = DRAW.normal(size=(len(kinds), 24)).astype(np.float16)
    vectors[:, :3] += 4 * np.eye(3, dtype=np.float16)[kinds]
    # Two tags of the first level, of which the second has two below it.
    labels = np.eye(3, dtype=np.float32)[kinds][:, [0, 1, 2, 1]]
    labels[:, 1] += labels[:, 2]
    fitted = fit(vectors, csr_matrix(labels), np.array([1, 1, 2, 2]))
    assert fitted is not None
    first, second, *clusters = zip(*fitted[1], strict=True)
    assert set(first) == {"b1_0", "b1_1"} and set(second) == {"b2_2", "b2_3"} and len(clusters) == 1
    for kind, word in ((1, "b2_3"), (2, "b2_2")):
        assert np.mean(np.array(second)[kinds == kind] == word) > 0.8
    assert np.mean(np.array(first)[kinds == 0] == "b1_0") > 0.8


def test_own_codes_come_from_a_map_that_has_not_seen_the_labels() -> None:
    vectors = DRAW.normal(size=(200, 120)).astype(np.float16)
    labels = csr_matrix(np.eye(2, dtype=np.float32)[DRAW.integers(0, 2, 200)])
    fitted = fit(vectors, labels, LEVELS[:2])
    assert fitted is not None
    book, own = fitted
    # Labels here are coin flips: a map that saw them would tell them apart in its own pictures all the same.
    truth = labels.toarray().argmax(axis=1)
    seen = book.project(vectors).argmax(axis=1)
    assert np.mean(seen == truth) > 0.7
    assert own != book.codes(vectors)


def test_too_few_pictures_or_tags_give_no_codebook() -> None:
    vectors, kinds = make_pictures(8)
    assert fit(vectors, csr_matrix(np.eye(3, dtype=np.float32)[kinds]), LEVELS) is None
    vectors, _ = make_pictures(60)
    assert fit(vectors, csr_matrix(np.ones((60, 1), np.float32)), LEVELS[:1]) is None


def test_fit_is_deterministic_and_survives_the_disk(tmp_path) -> None:  # noqa: ANN001
    vectors, kinds = make_pictures(120)
    labels = csr_matrix(np.eye(3, dtype=np.float32)[kinds])
    first, second = fit(vectors, labels, LEVELS), fit(vectors, labels, LEVELS)
    assert first is not None
    assert second is not None
    assert first[1] == second[1]
    first[0].save(tmp_path / "codes.safetensors")
    assert Codebook.load(tmp_path / "codes.safetensors").codes(vectors) == first[0].codes(vectors)


def test_a_code_is_a_function_of_its_picture_alone() -> None:
    vectors, kinds = make_pictures(120)
    fitted = fit(vectors, csr_matrix(np.eye(3, dtype=np.float32)[kinds]), LEVELS)
    assert fitted is not None
    together = fitted[0].codes(vectors)
    assert [fitted[0].codes(vectors[row : row + 1])[0] for row in range(20)] == together[:20]


def test_pictures_without_a_vector_have_no_codes() -> None:
    rows = [
        {"media_id": "a", "embed_vector": [1.0, 2.0], "embed_error": None},
        {"media_id": "b", "embed_vector": None, "embed_error": "broken"},
    ]
    media, vectors = stack_vectors(pa.Table.from_pylist(rows, schema=arrow_schema("embed")))
    assert media == ["a"]
    assert vectors.tolist() == [[1.0, 2.0]]
    assert stack_vectors(arrow_schema("embed").empty_table())[0] == []

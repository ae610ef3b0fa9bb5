from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from weibotag.core.errors import ModelError
from weibotag.core.schema import arrow_schema
from weibotag.curation.keywords import semantic_codes
from weibotag.curation.keywords.semantic_codes import SemanticCodes, fit, read_vectors, refit, sample_vectors, share_kept


def make_vectors(count: int, groups: int = 8, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of groups of groups, and the group of each."""
    draws = np.random.default_rng(seed)
    kinds = draws.integers(0, groups, count)
    places = np.random.default_rng(99)
    coarse, fine = places.normal(0, 10, (groups, width)), places.normal(0, 1, (4, width))
    return (coarse[kinds] + fine[draws.integers(0, 4, count)] + draws.normal(0, 0.1, (count, width))).astype(
        np.float32
    ), kinds


def write_vectors(vectors: np.ndarray, path: Path, column: str = "embed_vector", kind: pa.DataType | None = None) -> Path:
    """Write a vector a post, as `weibotag embed` does."""
    ids = [f"p{number}" for number in range(len(vectors))]
    pq.write_table(pa.table({"post_id": ids, column: pa.array(vectors.tolist(), kind or pa.list_(pa.float32()))}), path)
    return path


def test_levels_go_from_coarse_to_fine() -> None:
    vectors, kinds = make_vectors(600)
    codes = fit(vectors, "s0", 2, 8)
    numbers = codes.assign(vectors)
    assert numbers.shape == (600, 2)
    first = {(kind, number) for kind, number in zip(kinds.tolist(), numbers[:, 0].tolist(), strict=True)}
    assert len(first) == 8
    explained = codes.explained(vectors)
    assert explained[0] > 0.9
    assert explained[0] < explained[1] <= 1
    # What is explained is what the centres of both levels together come near to.
    centre = codes.centres[0][numbers[:, 0]] + codes.centres[1][numbers[:, 1]]
    left = ((vectors - centre) ** 2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum()
    assert explained[1] == pytest.approx(1 - left, abs=1e-3)


def test_words_are_prefixes() -> None:
    codes = SemanticCodes("s0", (np.zeros((1, 1), np.float32),) * 2, (np.zeros(1, np.int64),) * 2, (1, 1))
    assert codes.words([17, 203]) == ["s0_17", "s0_17_203"]


@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 39))
@settings(max_examples=10, deadline=None)
def test_a_code_is_a_function_of_its_vector_alone(seed: int, count: int, at: int) -> None:
    vectors, _ = make_vectors(200, seed=seed)
    codes = fit(vectors[:100], "s0", 2, 6)
    assert np.array_equal(codes.assign(vectors)[at : at + count], codes.assign(vectors[at : at + count]))


def test_codes_are_the_same_again_whatever_the_number_of_threads(tmp_path: Path) -> None:
    vectors, _ = make_vectors(3_000)
    for threads in (1, 4):
        with threadpool_limits(threads):
            fit(vectors, "s0", 2, 16).save(tmp_path / str(threads))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "4").read_bytes()


def test_a_refit_keeps_most_codes_and_fits_the_new_vectors_better() -> None:
    vectors, _ = make_vectors(2_000, groups=12)
    moved = (vectors + np.float32(1.5)).astype(np.float32)
    old = fit(vectors[:500], "s0", 2, 12)
    both = np.concatenate([vectors, moved])
    new = refit(both, old)
    before, after = old.assign(vectors[:500]), new.assign(vectors[:500])
    anew = fit(both, "s0", 2, 12).assign(vectors[:500])
    assert share_kept(before, after)[0] > 0.95
    assert share_kept(before, after)[1] > share_kept(before, anew)[1]
    assert new.explained(both)[-1] > old.explained(both)[-1]


def test_a_cluster_without_vectors_begins_anew_under_a_number_never_given() -> None:
    left, right = make_vectors(100, groups=1)[0], make_vectors(100, groups=1)[0] + 50
    old = fit(np.concatenate([left, right]), "s0", 1, 2)
    gone = int(old.assign(right)[0, 0])
    far = left - 500
    new = refit(np.concatenate([left, far]), old)
    assert set(new.assign(left).ravel()) == {1 - gone}
    assert set(new.assign(far).ravel()) == {2}
    again = refit(left, new)
    assert again.given == (4,)
    assert sorted(again.numbers[0].tolist()) == [1 - gone, 3]


def test_shares_kept_go_down_the_levels() -> None:
    before = np.array([[1, 2], [1, 2], [3, 4], [3, 4]])
    after = np.array([[1, 2], [1, 9], [9, 4], [3, 4]])
    assert share_kept(before, after) == [0.75, 0.5]


def test_codes_are_saved_and_read(tmp_path: Path) -> None:
    vectors, _ = make_vectors(200)
    codes = refit(vectors, fit(vectors[:50], "t", 3, 8))
    codes.save(tmp_path / "c.safetensors")
    read = SemanticCodes.load(tmp_path / "c.safetensors")
    assert (read.name, read.given) == ("t", codes.given)
    assert np.array_equal(read.assign(vectors), codes.assign(vectors))
    for spoilt in (b"", (tmp_path / "c.safetensors").read_bytes()[:-9]):
        (tmp_path / "bad").write_bytes(spoilt)
        with pytest.raises(ModelError, match=r"bad: .*expected semantic codes"):
            SemanticCodes.load(tmp_path / "bad")
    with pytest.raises(ModelError, match="expected semantic codes"):
        SemanticCodes.load(tmp_path / "none")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.list_(pa.float64()), pa.list_(pa.float32(), 12)], ids=["half", "double", "fixed"]
)
def test_vectors_of_any_float_are_read_but_nulls(tmp_path: Path, kind: pa.DataType) -> None:
    vectors, _ = make_vectors(20)
    path = write_vectors(vectors, tmp_path / "v.parquet", "mine", kind)
    table = pq.read_table(path)
    rows = table["mine"].to_pylist()
    rows[3] = None
    pq.write_table(table.set_column(1, "mine", pa.array(rows, kind)), path)
    ((ids, read),) = read_vectors(path)
    assert ids == [f"p{number}" for number in range(20) if number != 3]
    assert np.allclose(read, np.delete(vectors, 3, axis=0), atol=0.05)


def test_a_sample_of_more_vectors_is_nearly_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_codes, "ROWS", 30)
    vectors, _ = make_vectors(400)
    small, large = (
        sample_vectors(write_vectors(vectors[:count], tmp_path / f"{count}.parquet"), None, 50) for count in (200, 400)
    )
    assert len(small) == len(large) == 50
    # The hashes of the first half are as small as those of the second: half of the sample stays.
    assert 15 <= len(set(map(bytes, small)) & set(map(bytes, large))) <= 35
    monkeypatch.undo()
    assert np.array_equal(sample_vectors(tmp_path / "400.parquet", None, 50), large)


def test_the_commands_fit_apply_and_refit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vectors, _ = make_vectors(300)
    write_vectors(vectors[:150], tmp_path / "v.parquet")
    write_vectors(vectors, tmp_path / "w.parquet")
    words = "codes fit v.parquet -o old.safetensors --levels 2 --size 16 --name s0"
    foreseen, said = ask(*words.split()).stderr.splitlines()
    assert foreseen.startswith("v.parquet: 150 vectors of ") and "of memory" in foreseen
    assert "150 vectors, explained by level: " in said
    told = ask(*["codes", "fit", "w.parquet", "-o", "new.safetensors", "--align", "old.safetensors"]).stderr
    assert "keep theirs: " in told
    rows = pq.read_table("v.parquet").to_pylist()
    rows += [{"post_id": "p0", "embed_vector": vectors[149].tolist()}, {"post_id": "bare", "embed_vector": None}]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema("v.parquet")), "v.parquet")
    told = ask(*["codes", "apply", "v.parquet", "-m", "old.safetensors", "-o", "codes.parquet"]).stderr
    assert told.splitlines()[-1] == "codes.parquet: 151 posts, 151 vectors"
    table = pq.read_table("codes.parquet")
    assert table.schema.equals(arrow_schema("codes"))
    found = dict(zip(table["post_id"].to_pylist(), table["codes"].to_pylist(), strict=True))
    assert list(found) == [*(f"p{number}" for number in range(150)), "bare"]
    assert found["bare"] == []
    codes = SemanticCodes.load(Path("old.safetensors"))
    first, other = codes.assign(vectors[[0, 149]]).tolist()
    assert found["p0"] == list(dict.fromkeys(codes.words(first) + codes.words(other)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("codes fit v.parquet -o c --size 999", "v.parquet: 20 distinct vectors; 999 codes a level need as many"),
        (
            "codes fit v.parquet -o c --column post_id",
            "v.parquet: no vectors in column post_id; columns of lists of floats: v",
        ),
        ("codes fit two.parquet -o c", "two.parquet: which column has the vectors? --column names one of: a, b"),
        ("codes fit none.parquet -o c", "none.parquet: no vectors that can be read"),
        ("codes fit ragged.parquet -o c", "ragged.parquet: the v of post p1 has not 2 numbers"),
        ("codes fit nan.parquet -o c", "nan.parquet: the v of post p1 has not 2 numbers"),
        ("codes fit other.parquet -o c --align old", "other.parquet: vectors of 5 numbers; the codes s0 are of 12"),
        ("codes apply other.parquet -m old -o c.parquet", "other.parquet: vectors of 5 numbers; the codes s0 are of 12"),
        ("codes fit v.parquet -o c --align old --size 4", "--align takes --levels, --size and --name from the old codes"),
        ("codes apply v.parquet -m v.parquet -o c.parquet", "v.parquet: no safetensors that can be read"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    vectors, _ = make_vectors(20)
    write_vectors(vectors, tmp_path / "v.parquet", "v")
    write_vectors(vectors[:, :5], tmp_path / "other.parquet")
    fit(vectors, "s0", 1, 4).save(tmp_path / "old")
    for name, cells in (("ragged", [[1.0, 2.0], [1.0]]), ("nan", [[1.0, 2.0], [1.0, float("nan")]])):
        pq.write_table(pa.table({"post_id": ["p0", "p1"], "v": cells}), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"post_id": ["p0"], "a": [[1.0]], "b": [[1.0]]}), tmp_path / "two.parquet")
    result = ask(*words.split())
    assert result.exit_code == 2, result.output
    assert said in result.stderr.splitlines()[-1]
    # What it will need may have been said before.
    assert result.stderr.count("\n") <= 2

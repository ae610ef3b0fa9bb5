"""`weibotag encode`: a row per post with the vector of its text."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ask

from weibotag.features.text_vectors import WIDTH, open_encoder


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    path = tmp_path / "posts.csv"
    rows = [
        ["post_id", "text", "images", "mood"],
        ["1", "新买的口红 [doge]", "", "好"],
        ["2", "", "a.png", ""],
        ["", "x", "", ""],
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_each_post_has_a_row_and_one_without_text_a_reason(posts: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    summary = json.loads(ask("encode", str(posts), "-o", str(out), "--json").stdout)
    table = pq.read_table(out)
    assert table["post_id"].to_pylist() == ["1", "2"] and table["mood"].to_pylist() == ["好", ""]
    assert table["encode_error"].to_pylist() == [None, "no text"] and table["encode_vector"][1].as_py() is None
    vector = np.array(table["encode_vector"][0].as_py(), np.float32)
    assert vector.shape == (WIDTH,) and np.allclose(vector, open_encoder()(["新买的口红"])[0], atol=1e-3)
    assert (summary["rows"], summary["rejects"], summary["fingerprint"]) == (2, 1, open_encoder().fingerprint)


def test_a_pipeline_file_says_how_and_other_formats_are_written(posts: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "own.toml"
    pipeline.write_text("[encode]\nmost_characters = 2\n", encoding="utf-8")
    ask("encode", str(posts), "-p", str(pipeline), "-o", str(tmp_path / "v.csv"))
    with (tmp_path / "v.csv").open(encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert second["encode_vector"] == "" and len(first["encode_vector"].split(";")) == WIDTH
    lines = ask("encode", str(posts), "-p", str(pipeline), "-o", "-").stdout.splitlines()
    assert np.allclose(json.loads(lines[0])["encode_vector"], open_encoder()(["新买"])[0], atol=1e-3)


def test_what_is_asked_wrongly_is_one_line(posts: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "v.parquet")
    assert "no such file" in fail("encode", str(posts), "-o", out, "--model", str(tmp_path / "none"))
    assert "expected" in fail("encode", str(posts), "-o", str(tmp_path / "v.xyz"))
    assert "most_character" in _fail_by(posts, tmp_path, "[encode]\nmost_character = 2\n")
    assert "greater than or equal to 1" in _fail_by(posts, tmp_path, "[encode]\nmost_characters = 0\n")


def fail(*words: str) -> str:
    result = ask(*words)
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    return str(result.stderr)


def _fail_by(posts: Path, tmp_path: Path, pipeline: str) -> str:
    path = tmp_path / "bad.toml"
    path.write_text(pipeline, encoding="utf-8")
    return fail("encode", str(posts), "-p", str(path), "-o", str(tmp_path / "v.csv"))

"""Texts to vectors: by the packaged encoder, and by models of transformers in folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.errors import RequestError
from weibotag.features.text_vectors import POOLING, WIDTH, open_encoder


def test_texts_that_mean_alike_are_near_whatever_their_language() -> None:
    red, lipstick, english, car = open_encoder()(["新买的唇釉颜色好好看", "口红", "lipstick", "汽车"])
    assert red @ lipstick > 0.35 > 0.1 > red @ car
    assert lipstick @ english > 0.6


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=60) | st.text(st.characters(), max_size=20), min_size=1, max_size=6))
def test_a_vector_is_that_of_its_own_text(texts: list[str]) -> None:
    encode = open_encoder()
    together = encode(texts)
    assert together.shape == (len(texts), WIDTH) and together.dtype == np.float32
    lengths = np.linalg.norm(together, axis=1)
    spoken = np.array([any(map(str.isalnum, text)) for text in texts])
    assert np.all(lengths[~spoken] == 0) and np.allclose(lengths[spoken], 1, atol=2e-3)
    for text, vector in zip(texts, together, strict=True):
        # The last digit may round the other way.
        assert np.allclose(encode([text])[0], vector, atol=2e-4)


def test_long_texts_are_read_to_an_end_and_half_characters_are_no_error() -> None:
    encode = open_encoder()
    long = "今天去吃火锅了，" * 50
    assert np.array_equal(encode([long])[0], encode([long[:100]])[0])
    assert encode(["火锅\ud83d", ""]).shape == (2, WIDTH) and not len(encode([]))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, as save_pretrained writes it."""
    pytest.importorskip("torch", reason="runs language models")
    transformers = pytest.importorskip("transformers", reason="reads language models")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"口红汽车火锅"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.set_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_pooling(folder: Path, pooling: dict[str, object]) -> None:
    (folder / POOLING).parent.mkdir(exist_ok=True)
    (folder / POOLING).write_text(json.dumps(pooling), encoding="utf-8")
    open_encoder.cache_clear()


def test_models_of_transformers_pool_as_their_folder_says(bert: Path) -> None:
    def encode(pooling: dict[str, object]) -> tuple[np.ndarray, str]:
        write_pooling(bert, pooling)
        encoder = open_encoder(str(bert))
        assert encoder.width == 32
        return encoder(["口红", "汽车火锅"]), encoder.fingerprint

    mean, first_mark = encode({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    named, _ = encode({"pooling_mode": "mean"})
    first, other_mark = encode({"pooling_mode_cls_token": True})
    assert np.array_equal(mean, named) and not np.allclose(mean, first, atol=0.01) and first_mark != other_mark
    with pytest.raises(RequestError, match="pooling_mode_max_tokens"):
        encode({"pooling_mode_max_tokens": True})
    with pytest.raises(RequestError, match="no settings of a pooling"):
        encode([])  # type: ignore[arg-type]


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"found no config\.json"):
        open_encoder(str(tmp_path))

"""Objects by transformers: small random detectors, saved and loaded the way real ones are."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from weibotag.core.errors import RequestError
from weibotag.vision.backend import DetectedObject
from weibotag.vision.backends import detect_transformers
from weibotag.vision.backends.detect_transformers import (
    Transformers,
    cut_objects,
    read_prompts,
    score_prompts,
    to_tensor,
)

for library in ("transformers", "torch", "torchvision"):
    if find_spec(library) is None:
        pytest.skip(f"needs the extra hf: {library} is absent", allow_module_level=True)

import torch  # noqa: E402
import transformers  # noqa: E402

# Its configurations take more than they declare.
hub: Any = transformers
hub.logging.disable_progress_bar()
LABELS = ("杯子", "猫", "狗")
PROMPTS = ("Red cup.=红杯子", "cats")
RANDOM = np.random.default_rng(0)
PICTURES = [
    RANDOM.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((90, 120), (64, 64), (33, 200), (300, 70))
]
SMALL: dict[str, Any] = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 20,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_n_points": 2,
    "num_denoising": 10,
}
STAGES = ["stage2", "stage3", "stage4"]


def name_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def save_rt_detr(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    torch.manual_seed(0)
    backbone = hub.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=STAGES
    )
    config = hub.RTDetrV2Config(backbone_config=backbone, encoder_in_channels=[16, 24, 32], **SMALL, **name_labels(labels))
    hub.RTDetrV2ForObjectDetection(config).save_pretrained(folder)
    hub.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_d_fine(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    torch.manual_seed(0)
    backbone = hub.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 24, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        embedding_size=8,
        out_features=STAGES,
    )
    config = hub.DFineConfig(backbone_config=backbone, encoder_in_channels=[16, 24, 32], **SMALL, **name_labels(labels))
    hub.DFineForObjectDetection(config).save_pretrained(folder)
    hub.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_yolos(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """Save a detector whose pictures keep their proportions, so that a batch has to be padded."""
    torch.manual_seed(0)
    config = hub.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_detection_tokens=10,
        **name_labels(labels),
    )
    hub.YolosForObjectDetection(config).save_pretrained(folder)
    hub.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 512}).save_pretrained(folder)
    return folder


def save_grounding_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    # The model knows the numbers of its marks.
    words = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    known = dict(zip(words.values(), words, strict=True))
    vocabulary = [known.get(number, f"[unused{number}]") for number in range(1030)] + ["red", "cup", "cat", "##s"]
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    swin = hub.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    text = hub.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = hub.GroundingDinoConfig(
        backbone_config=swin,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        max_text_len=24,
    )
    hub.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    reader = hub.GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 256})
    tokenizer = hub.BertTokenizer(str(folder / "words.txt"))
    hub.GroundingDinoProcessor(reader, tokenizer).save_pretrained(folder)
    return folder


def save_owl(folder: Path) -> Path:
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = hub.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 54, "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = hub.Owlv2Config(
        text_config=tiny | text, vision_config=tiny | {"image_size": 512, "patch_size": 128}, projection_dim=16
    )
    hub.Owlv2ForObjectDetection(config).save_pretrained(folder)
    reader = hub.Owlv2ImageProcessor(size={"height": 512, "width": 512})
    hub.Owlv2Processor(image_processor=reader, tokenizer=tokenizer).save_pretrained(folder)
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "rt_detr_v2": save_rt_detr,
    "d_fine": save_d_fine,
    "yolos": save_yolos,
    "grounding-dino": save_grounding_dino,
    "owlv2": save_owl,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a detector of each kind."""
    folder = tmp_path_factory.mktemp("detectors")
    for kind, save in KINDS.items():
        save(folder / kind)
    return folder


def opened(path: Path, min_score: float = 0.2) -> Transformers:
    classes = PROMPTS if path.name in detect_transformers.PROMPTED else ()
    backend = Transformers(str(path), min_score, classes, "cpu")
    backend.open()
    return backend


def check(found: list[DetectedObject], picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        left, top, across, down = one.box
        assert 0 <= left < left + across <= width + 0.01 and 0 <= top < top + down <= height + 0.01
        assert 0.2 <= one.score <= 1 and round(one.score, 4) == one.score
        assert tuple(round(side, 2) for side in one.box) == one.box


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_of_its_picture_alone(kind: str, folder: Path) -> None:
    backend = opened(folder / kind)
    together = backend.look(PICTURES)
    assert sum(map(len, together)) >= 4
    for found, picture in zip(together, PICTURES, strict=True):
        check(found, picture)
    assert {one.label for found in together for one in found} <= {*LABELS, "红杯子", "cats"}
    assert [backend.look([picture])[0] for picture in PICTURES] == together
    assert backend.look(PICTURES[::-1]) == together[::-1]
    assert backend.look([]) == []
    backend.close()


@pytest.mark.parametrize("kind", KINDS)
def test_odd_pictures(kind: str, folder: Path) -> None:
    shapes = [(1, 1), (3, 7), (1, 3), (30, 900), (9000, 30), (1, 4000), (2100, 2100)]
    pictures = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    for picture in pictures:
        picture.flags.writeable = False
    backend = opened(folder / kind)
    for found, picture in zip(backend.look(pictures), pictures, strict=True):
        check(found, picture)


@pytest.mark.parametrize("kind", ["rt_detr_v2", "d_fine", "yolos"])
def test_closed_classes_as_the_pipeline_of_the_library_finds_them(kind: str, folder: Path) -> None:
    judge = hub.pipeline("object-detection", str(folder / kind), device="cpu")
    backend = opened(folder / kind)
    compared = 0
    for picture in PICTURES:
        found = backend.look([picture])[0]
        height, width = picture.shape[:2]
        for one in judge(Image.fromarray(picture), threshold=0.2):
            # The pipeline gives whole pixels, also beyond the edges.
            corners = [one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = np.clip(corners, 0, (width, height, width, height)).tolist()
            if right - left > 1 and bottom - top > 1:
                box = pytest.approx((left, top, right - left, bottom - top), abs=2)
                score = pytest.approx(one["score"], abs=1e-3)
                assert any((mine.label, mine.score, mine.box) == (one["label"], score, box) for mine in found)
                compared += 1
    assert compared > 4


def test_a_batch_as_on_a_gpu(folder: Path) -> None:
    backend = opened(folder / "rt_detr_v2")
    alone = backend.look(PICTURES)
    backend._batch = 3
    for found, expected in zip(backend.look(PICTURES), alone, strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.label == other.label and one.score == pytest.approx(other.score, abs=1e-3)
            assert one.box == pytest.approx(other.box, abs=0.1)


def test_a_batch_too_large_for_the_memory_is_halved(folder: Path) -> None:
    backend = opened(folder / "rt_detr_v2")
    find, sizes = backend._find, []
    assert find is not None

    def find_in_little(pictures: Any) -> Any:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return find(pictures)

    backend._find, backend._batch = find_in_little, 8
    assert len(backend.look(PICTURES)) == 4
    assert sizes == [8, 4, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_transformers, "choose_precision", lambda device: torch.float16)
    backend = opened(folder / kind)
    for found, picture in zip(backend.look(PICTURES), PICTURES, strict=True):
        check(found, picture)


@given(st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_slim_pictures_are_padded_at_the_far_side(short: int, long: int, turned: bool) -> None:
    shape = (short, long * 20) if turned else (long * 20, short)
    picture = np.full((*shape, 3), 7, np.uint8)
    picture.flags.writeable = False
    tensor = to_tensor(picture)
    height, width = tensor.shape[1:]
    assert max(height, width) <= 16 * min(height, width) and max(height, width) == max(shape)
    assert (tensor[:, : shape[0], : shape[1]] == 7).all() and int((tensor > 0).sum()) == 3 * shape[0] * shape[1]


def test_boxes_are_cut_to_the_picture_and_sorted() -> None:
    answer = {
        "scores": torch.tensor([0.5, 0.9, 0.70004, 0.6]),
        "labels": torch.tensor([1, 0, 1, 0]),
        "boxes": torch.tensor([[-5.0, -5, 4, 3], [1, 2, 50, 60], [0.126, 0, 5, 5], [10, 0, 14, 5]]),
    }
    assert cut_objects(np.zeros((20, 10, 3), np.uint8), answer, {0: "杯子", 1: "猫"}) == [
        DetectedObject("杯子", 0.9, (1.0, 2.0, 9.0, 18.0)),
        DetectedObject("猫", 0.7, (0.13, 0.0, 4.87, 5.0)),
        DetectedObject("猫", 0.5, (0.0, 0.0, 4.0, 3.0)),
    ]


def test_prompts_and_their_labels() -> None:
    assert read_prompts(["Red  Cup.=红杯子", "cats", " A dog? = 狗 "]) == {
        "red cup": "红杯子",
        "cats": "cats",
        "a dog": "狗",
    }
    for said in ("", ".", "=杯子", " ? "):
        with pytest.raises(RequestError, match="names nothing"):
            read_prompts([said])


def test_a_prompt_scores_by_its_best_token(folder: Path) -> None:
    tokenizer = hub.AutoTokenizer.from_pretrained(folder / "grounding-dino")
    ids = tokenizer("red cup. cats.", return_tensors="pt").input_ids[0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "red", "cup", ".", "cat", "##s", ".", "[SEP]"]
    logits = torch.tensor([[[9.0, 1, 2, 9, 3, -1, 9, 9, -9], [9, 5, 4, 9, -7, -8, 9, 9, -9]]])
    assert score_prompts(logits, ids, tokenizer, 2).tolist() == [[[2, 3], [5, -7]]]
    unknown = tokenizer("cup. 口.", return_tensors="pt").input_ids[0]
    assert score_prompts(logits, unknown, tokenizer, 2).tolist() == [[[1, 9], [5, 9]]]


def test_more_prompts_than_the_model_reads(folder: Path) -> None:
    with pytest.raises(RequestError, match="name fewer"):
        Transformers(str(folder / "grounding-dino"), classes=[f"cat{'s' * n}" for n in range(20)], device="cpu").open()
    with pytest.raises(RequestError, match="can't look at a picture with these settings"):
        Transformers(str(folder / "owlv2"), classes=["a very long prompt indeed"], device="cpu").open()


def test_weights_are_what_the_answers_depend_on(folder: Path) -> None:
    names = {path.name for path in Transformers(str(folder / "rt_detr_v2")).weights()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    names = {path.name for path in Transformers(str(folder / "grounding-dino"), classes=PROMPTS).weights()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names


def test_what_cannot_be_a_detector(folder: Path, tmp_path: Path) -> None:
    def said(model: Path, *classes: str) -> str:
        backend = Transformers(str(model), classes=classes, device="cpu")
        with pytest.raises(RequestError) as caught:
            backend.open()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "set classes" in said(folder / "owlv2")
    assert "leave classes out" in said(folder / "rt_detr_v2", "cup")
    assert "found no config.json with .safetensors" in said(tmp_path)
    bare = save_rt_detr(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "can't load this model" in said(bare)
    cut = save_rt_detr(tmp_path / "cut")
    os.truncate(cut / "model.safetensors", 5000)
    assert "can't load this model" in said(cut)
    torch.manual_seed(0)
    config = hub.RTDetrV2Config.from_pretrained(folder / "rt_detr_v2")
    backbone = hub.RTDetrV2Model(config)
    headless = save_rt_detr(tmp_path / "headless")
    backbone.save_pretrained(headless)
    assert "expected a whole model" in said(headless)
    hub.BertModel(hub.BertConfig(hidden_size=16, num_attention_heads=2)).save_pretrained(tmp_path / "bert")
    assert "can't load this model" in said(tmp_path / "bert")
    for settings in ("{", "[" * 100_000):
        (bare / "config.json").write_text(settings)
        assert "no settings of a model" in said(bare)

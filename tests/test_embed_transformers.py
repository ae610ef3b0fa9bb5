import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_vision_models import (
    LAYERS,
    SQUARE,
    VISION,
    WIDTHS,
    save,
    save_chinese_clip,
    save_classifier,
    save_clip,
    save_dino,
    save_resnet,
    save_siglip2,
    save_timm,
    save_timm_wrapper,
    save_vit,
)

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.features.visual_codes import open_zero_shot
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.vision.backend import PictureVector
from weibotag.vision.backends.embed_transformers import (
    WIDEST,
    ChineseClip,
    TransformersVision,
    choose_precision,
    pool_cells,
    trim_picture,
)
from weibotag.vision.embed import Embed
from weibotag.vision.media.pictures import Frame, frames_table

torch = pytest.importorskip("torch", reason="needs the extra hf")
transformers = pytest.importorskip("transformers", reason="needs the extra hf")
timm = pytest.importorskip("timm", reason="needs the extra hf")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], None]], Path]:
    """Give the folder of each model, saved once."""
    root = tmp_path_factory.mktemp("models")

    def folder_of(saver: Callable[[Path], None]) -> Path:
        folder = root / saver.__name__
        if not folder.exists():
            torch.manual_seed(0)
            saver(folder)
        return folder

    return folder_of


def opened(folder: Path, precision: str = "float32", kind: type = TransformersVision) -> Any:
    backend = kind(model=str(folder), precision=precision, device="cpu")
    backend.open()
    return backend


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


def vectors_of(answers: list[PictureVector]) -> np.ndarray:
    return np.stack([answer.vector for answer in answers])


SIZES = ((1, 1), (3, 50), (50, 3), (60, 90), (400, 1), (90, 60), (60, 90))
PICTURES = [picture(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("saver", WIDTHS, ids=lambda saver: saver.__name__)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_vector_has_unit_length_and_is_of_its_picture_alone(folders: Any, saver: Callable, batch: int) -> None:
    backend = opened(folders(saver))
    # What a GPU does: as many at a time, whatever is asked for.
    backend._batch = batch
    together = vectors_of(backend.look(PICTURES))
    assert together.dtype == np.float16
    assert together.shape == (len(PICTURES), WIDTHS[saver])
    assert np.allclose(np.linalg.norm(together.astype(np.float32), axis=1), 1, atol=2e-3)
    assert np.array_equal(together, np.stack([backend.look([one])[0].vector for one in PICTURES]))
    assert np.array_equal(together[::-1], vectors_of(backend.look(PICTURES[::-1])))
    assert len(np.unique(together[[3, 5, 6]], axis=0)) == 3


@pytest.mark.parametrize(
    "saver", [save_vit, save_dino, save_resnet, save_clip, save_timm, save_timm_wrapper], ids=lambda saver: saver.__name__
)
def test_a_grid_gives_patches_and_leaves_the_vector_as_it_is(folders: Any, saver: Callable) -> None:
    backend = TransformersVision(str(folders(saver)), "float32", "cpu", grid=2)
    backend.open()
    found = backend.look(PICTURES)
    assert np.array_equal(vectors_of(found), vectors_of(opened(folders(saver)).look(PICTURES)))
    patches = np.stack([one.patches for one in found]).astype(np.float32)
    assert patches.shape[:2] == (len(PICTURES), 4)
    assert np.allclose(np.linalg.norm(patches, axis=2), 1, atol=2e-3)


def test_cells_are_the_means_of_their_places() -> None:
    places = torch.arange(32.0).reshape(1, 2, 4, 4)
    tokens = torch.cat([torch.full((1, 3, 2), 99.0), places.flatten(2).transpose(1, 2)], dim=1)
    cells = pool_cells(places, 2)
    assert cells[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(pool_cells(tokens, 2), cells)


def test_a_model_whose_patches_are_no_square_has_no_grid(folders: Any) -> None:
    with pytest.raises(RequestError, match="leave grid at 0"):
        TransformersVision(str(folders(save_siglip2)), "float32", "cpu", grid=2).open()


@pytest.mark.parametrize("saver", [save_dino, save_timm, save_siglip2, save_chinese_clip], ids=lambda saver: saver.__name__)
def test_extremes_have_vectors_too(folders: Any, saver: Callable) -> None:
    backend = opened(folders(saver))
    extremes = [np.zeros(size, np.uint8) for size in ((1, 1, 3), (30, 9000, 3), (20_000, 1, 3), (4096, 4096, 3))]
    vectors = vectors_of(backend.look([*extremes, np.full((40, 40, 3), 255, np.uint8)]))
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("saver", [save_vit, save_timm, save_chinese_clip], ids=lambda saver: saver.__name__)
def test_bfloat16_says_nearly_the_same(folders: Any, saver: Callable) -> None:
    exact, rough = (
        vectors_of(opened(folders(saver), precision).look(PICTURES)).astype(np.float32)
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, rough)
    assert (exact * rough).sum(axis=1).min() > 0.99


def test_a_vector_of_timm_is_what_timm_gives(folders: Any) -> None:
    from PIL import Image
    from safetensors.torch import load_file
    from timm.data import create_transform, resolve_data_config

    folder = folders(save_timm)
    model = timm.create_model("resnet10t", num_classes=0)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weight for name, weight in weights.items() if not name.startswith("fc.")})
    cut = create_transform(**resolve_data_config(json.loads((folder / "config.json").read_text())["pretrained_cfg"]))
    with torch.inference_mode():
        expected = model.eval()(cut(Image.fromarray(PICTURES[3]))[None])[0].numpy()
    (found,) = opened(folder).look([PICTURES[3]])
    assert found.vector.astype(np.float32) @ expected / np.linalg.norm(expected) > 0.9999


def test_clip_answers_with_the_vector_that_lies_beside_texts(folders: Any) -> None:
    folder = folders(save_clip)
    model = transformers.CLIPModel.from_pretrained(folder)
    pixels = transformers.CLIPImageProcessor.from_pretrained(folder)(PICTURES[3].copy(), return_tensors="pt")
    with torch.inference_mode():
        expected = model.get_image_features(**pixels).pooler_output[0].numpy()
    (found,) = opened(folder).look([PICTURES[3]])
    assert found.vector.astype(np.float32) @ expected / np.linalg.norm(expected) > 0.9999


def test_a_pooler_without_weights_is_passed_over(folders: Any) -> None:
    torch.manual_seed(1)
    first = opened(folders(save_classifier)).look(PICTURES)
    torch.manual_seed(2)
    assert np.array_equal(vectors_of(opened(folders(save_classifier)).look(PICTURES)), vectors_of(first))


def test_a_gpu_without_memory_gets_fewer_pictures_at_a_time(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(folders(save_vit))
    expected = vectors_of(backend.look(PICTURES))
    embed, sizes = backend._find, []

    def embed_few(pictures: Any) -> list[PictureVector]:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return embed(pictures)

    backend._batch, backend._find = 16, embed_few
    assert np.allclose(vectors_of(backend.look(PICTURES)).astype(np.float32), expected.astype(np.float32), atol=2e-3)
    assert sizes == [16, 8, 4, 2, 2, 2, 2]
    backend._batch, backend._find = 1, lambda pictures: embed_few([*pictures] * 3)
    with pytest.raises(backend.errors, match="out of memory"):
        backend.look(PICTURES[:1])


def test_on_a_gpu_only_inputs_of_one_shape_go_together(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cuda:
        """A CPU that says that it is a GPU."""

        type = "cuda"

    def open_on_gpu(folder: Path) -> Any:
        backend = TransformersVision(str(folder), "float32")
        monkeypatch.setattr("weibotag.vision.backends.embed_transformers.choose_device", lambda asked: Cuda)
        monkeypatch.setattr(backend, "_start", lambda threads: None)
        backend.errors = (RuntimeError,)
        backend.open()
        return backend

    for kind in (torch.Tensor, torch.nn.Module):
        move = kind.to
        monkeypatch.setattr(kind, "to", lambda it, *to, _move=move, **how: it if to == (Cuda,) else _move(it, *to, **how))
    assert open_on_gpu(folders(save_vit))._batch == 16
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    save(tmp_path, model, transformers.BitImageProcessor(size={"shortest_edge": 40}, do_center_crop=False))
    uneven = open_on_gpu(tmp_path)
    assert uneven._batch == 1
    assert len(uneven.look(PICTURES)) == len(PICTURES)


def test_numbers_that_are_not_finite_are_no_vector(folders: Any) -> None:
    backend = opened(folders(save_vit))
    torch.nn.init.constant_(backend._model.pooler.dense.weight, float("nan"))
    with pytest.raises(ValueError, match="choose precision float32"):
        backend.look(PICTURES[:1])


def test_a_model_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**VISION))
    save(tmp_path, model, transformers.ViTImageProcessor(size=SQUARE))
    with pytest.raises(RequestError, match="gives the same picture two vectors"):
        opened(tmp_path)


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, folders: Any) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(RequestError, match="needs a model"):
        TransformersVision().weights()
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(RequestError, match="found no config"):
        TransformersVision(str(tmp_path / "file.safetensors")).weights()
    with pytest.raises(RequestError, match="found no config"):
        TransformersVision(str(tmp_path)).weights()
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(RequestError, match="can't load this model") as refused:
        opened(tmp_path)
    assert "\n" not in str(refused.value)
    half = tmp_path / "half"
    save_vit(half)
    weights = load_file(half / "model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[8:]}, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match="8 weights are absent"):
        opened(half)
    with pytest.raises(RequestError, match="expected a Chinese-CLIP, found 'clip'"):
        ChineseClip(str(folders(save_clip))).weights()


def test_a_model_of_words_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**LAYERS, vocab_size=99)
    save(tmp_path, transformers.BertModel(config), transformers.ViTImageProcessor(size=SQUARE))
    with pytest.raises(RequestError, match="gives no picture vectors"):
        opened(tmp_path)


def test_weights_are_all_that_answers_depend_on(folders: Any) -> None:
    names = [path.name for path in ChineseClip(str(folders(save_chinese_clip))).weights()]
    assert names == ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"]


def test_texts_lie_in_the_space_of_pictures(folders: Any) -> None:
    folder = folders(save_chinese_clip)
    backend = opened(folder, kind=ChineseClip)
    texts = ["一张猫的照片", "足球", "狗", "美食" * 100, "没有的字"]
    vectors = backend.encode_texts(texts)
    assert vectors.shape == (5, 24)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors, np.concatenate([backend.encode_texts([text]) for text in texts]), atol=1e-5)
    assert len(np.unique(vectors.round(3), axis=0)) == 5
    model = transformers.ChineseCLIPModel.from_pretrained(folder)
    tokens = transformers.BertTokenizer.from_pretrained(folder)([texts[0]], return_tensors="pt")
    pixels = transformers.ChineseCLIPImageProcessor.from_pretrained(folder)(PICTURES[3].copy(), return_tensors="pt")
    with torch.inference_mode():
        expected = model(**tokens, **pixels)
    cosine = backend.look([PICTURES[3]])[0].vector.astype(np.float32) @ vectors[0]
    assert backend.scale * cosine == pytest.approx(float(expected.logits_per_image[0, 0]), abs=0.05)


def test_zero_shot_words_of_a_taxonomy_by_the_stage(folders: Any, tmp_path: Path) -> None:
    stage = Embed(Embed.Config(backend="chineseclip", model=str(folders(save_chinese_clip)), precision="float32"))
    assert stage.reads_texts
    stage.open()
    found = stage.process(frames_table([Frame(str(number), one) for number, one in enumerate(PICTURES)]))
    stage.close()
    tree = Taxonomy(Tag(name, None, name, (), (), line) for line, name in enumerate(("猫", "狗", "美食", "足球")))
    zero_shot = open_zero_shot(tree, stage.fingerprint(), stage.encode_texts, tmp_path)
    assert zero_shot.vectors.shape == (4, 24)
    said = zero_shot.words(found)
    assert set(said) == {str(number) for number in range(len(PICTURES))}
    assert {kind for words in said.values() for _, kind, *_ in words} == {"clip"}


def test_the_stage_gives_a_row_per_frame_and_says_why_there_is_no_vector(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Embed(Embed.Config(backend="transformers", model=str(folders(save_vit)), precision="float32"))
    # What a worker gets.
    stage = Embed(Embed.Config.model_validate_json(stage.config.model_dump_json()))
    stage.open()
    prepare = stage._backend._prepare

    def prepare_large(one: np.ndarray) -> Any:
        if one.shape[0] < 2:
            raise ValueError("too small")
        return prepare(one)

    monkeypatch.setattr(stage._backend, "_prepare", prepare_large)
    found = stage.process(frames_table([Frame(str(number), one) for number, one in enumerate(PICTURES)]))
    assert found.schema == arrow_schema("embed")
    assert found["embed_vector"].is_valid().to_pylist() == [height > 1 for height, _ in SIZES]
    assert found["embed_error"].to_pylist()[:2] == ["ValueError: too small", None]
    assert pa.types.is_float16(found["embed_vector"].type.value_type)


def test_auto_precision_is_that_of_the_machine_and_in_the_fingerprint(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(**config: Any) -> Embed:
        return Embed(Embed.Config(backend="transformers", model=str(folders(save_vit)), **config))

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision("cpu") == "bfloat16"
    assert stage(device="cpu").config.precision == "bfloat16"
    assert stage(device="cpu").fingerprint() == stage(precision="bfloat16").fingerprint()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert stage(device="cpu").config.precision == "float32"
    assert stage(precision="bfloat16").fingerprint() != stage(precision="float32").fingerprint()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_precision("auto") == "float16"
    assert choose_precision("cpu") == "float32"


@given(height=st.integers(1, 200), width=st.integers(1, 200))
def test_only_the_middle_of_long_pictures_is_looked_at(height: int, width: int) -> None:
    pixels = np.broadcast_to(np.arange(height * width, dtype=np.uint32).reshape(height, width, 1), (height, width, 3))
    trimmed = trim_picture(pixels)
    long, short = max(trimmed.shape[:2]), min(trimmed.shape[:2])
    assert long <= WIDEST * short + 1
    if max(height, width) <= WIDEST * min(height, width):
        assert trimmed.shape == pixels.shape
    assert abs(int(trimmed[0, 0, 0]) + int(trimmed[-1, -1, 0]) - (height * width - 1)) == 0

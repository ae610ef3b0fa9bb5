"""Tiny vision models of transformers and timm with random weights; each function saves one to a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra hf")
transformers = pytest.importorskip("transformers", reason="needs the extra hf")
timm = pytest.importorskip("timm", reason="needs the extra hf")

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}
TEXT = {**LAYERS, "vocab_size": 99}
SQUARE = {"height": 32, "width": 32}
CHARACTERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一张的照片关于图猫狗美食足球")


def save(folder: Path, model: Any, processor: Any = None) -> None:
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def save_vit(folder: Path) -> None:
    model = transformers.ViTModel(transformers.ViTConfig(**VISION))
    save(folder, model, transformers.ViTImageProcessor(size=SQUARE))


def save_classifier(folder: Path) -> None:
    """A checkpoint without weights for the pooler that the plain model has."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    save(folder, model, transformers.ViTImageProcessor(size=SQUARE))


def save_dino(folder: Path) -> None:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**VISION))
    save(folder, model, transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE))


def save_resnet(folder: Path) -> None:
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    save(folder, model, transformers.ConvNextImageProcessor(size={"shortest_edge": 64}))


def save_clip(folder: Path) -> None:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    save(folder, transformers.CLIPModel(config), processor)


def save_siglip2(folder: Path) -> None:
    """Pictures of any shape as up to so many patches, with a mask."""
    vision = {**LAYERS, "num_patches": 64, "patch_size": 8}
    model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=TEXT, vision_config=vision))
    save(folder, model, transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=64))


def save_timm(folder: Path) -> None:
    """As timm itself writes it."""
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("resnet10t", num_classes=7), str(folder), safe_serialization=True)


def save_timm_wrapper(folder: Path) -> None:
    cut = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    about = {"architecture": "test_vit", "num_classes": 0, "model_args": {"img_size": 32}, "pretrained_cfg": cut}
    save(folder, transformers.TimmWrapperModel(transformers.TimmWrapperConfig.from_dict(about)))


def save_chinese_clip(folder: Path) -> None:
    """With its settings and vocabulary written as those of the published models are."""
    text = {**LAYERS, "vocab_size": len(CHARACTERS), "directionality": "bidi", "output_past": True}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    model = transformers.ChineseCLIPModel(config)
    torch.nn.init.normal_(model.text_projection.weight, std=0.5)
    save(folder, model)
    (folder / "vocab.txt").write_text("\n".join(CHARACTERS), encoding="utf-8")
    about = {"do_resize": True, "size": SQUARE, "do_center_crop": False, "do_normalize": True, "resample": 3}
    about |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "feature_extractor_type": "ChineseCLIPFeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


# The width of each one's vector.
WIDTHS: dict[Callable[[Path], None], int] = {
    save_vit: 32,
    save_classifier: 32,
    save_dino: 32,
    save_resnet: 16,
    save_clip: 24,
    save_siglip2: 32,
    save_timm: 512,
    save_timm_wrapper: 64,
    save_chinese_clip: 24,
}

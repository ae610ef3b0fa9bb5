"""Picture vectors by any vision model that transformers loads, those of timm included, and by Chinese-CLIP.

Chinese-CLIP (Yang et al., 2022, https://arxiv.org/abs/2211.01335) gives pictures and Chinese texts vectors in one space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import PictureVector
from weibotag.vision.backends.torch_device import BLANK, GPU_BATCH, choose_device
from weibotag.vision.backends.transformers_model import Pretrained, find_folder, first_line, load_pretrained

if TYPE_CHECKING:
    import torch

# A picture is cut to its middle when one side is more than so many times the other: models that scale the short side to 224
# pixels would blow up a strip of 1 x 4096 to two hundred million.
WIDEST = 16
# The hub's own conversion: the main branch has the weights as a pickle only.
CHINESE_CLIP = "hf:OFA-Sys/chinese-clip-vit-base-patch16@refs/pr/1"
# Tokens that it was trained with.
LONGEST_TEXT = 52
TEXTS_TOGETHER = 64


@dataclass
class TransformersVision(Pretrained[PictureVector]):
    """Pictures to vectors of unit length, float16 of the model's width; with a `grid`, also the means of its cells."""

    model: str = ""
    precision: str = "auto"
    device: str = "auto"
    grid: int = 0

    def open(self, threads: int = 1) -> None:
        """Load the model; RequestError where it can't be, or gives no vectors, or another one for the same picture."""
        import torch

        folder, _ = find_folder(self.model)
        self._start(threads)
        self._device = choose_device(self.device)
        precision = choose_precision(self.device) if self.precision == "auto" else self.precision
        self._type = getattr(torch, precision)
        # Checkpoints of classifiers have no weights for a pooler: it would start at random, otherwise in each process.
        self._processor, model, self._has_pooler = load_pretrained(
            folder, "AutoImageProcessor", "AutoModel", dtype=self._type
        )
        self._model = model.to(self._device).eval()
        self._find = self._embed
        picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        try:
            shapes = [[tensor.shape for tensor in self._prepare(one).values()] for one in (picture, BLANK)]
            if self._device.type == "cuda" and shapes[0] == shapes[1]:
                self._batch = GPU_BATCH
            first, second = (self.look([picture])[0].vector for _ in range(2))
        except Exception as error:
            raise RequestError(f"{folder}: this model gives no picture vectors: {first_line(error)}") from error
        if not np.array_equal(first, second):
            raise RequestError(f"{folder}: gives the same picture two vectors: choose a model that draws nothing at random")

    def _prepare(self, picture: np.ndarray) -> dict[str, "torch.Tensor"]:
        from PIL import Image

        # As a picture of Pillow: of an array of three rows or columns the processors guess which side is colour.
        return dict(self._processor(images=Image.fromarray(trim_picture(picture)), return_tensors="pt"))

    def _embed(self, pictures: Sequence[np.ndarray]) -> list[PictureVector]:
        import torch

        prepared = [self._prepare(picture) for picture in pictures]
        inputs = {name: torch.cat([one[name] for one in prepared]).to(self._device) for name in prepared[0]}
        with torch.inference_mode():
            cast = {name: x.to(self._type) if x.is_floating_point() else x for name, x in inputs.items()}
            pooled, places = self._pool(cast)
            vectors = torch.nn.functional.normalize(pooled.float().flatten(1))
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("the model gave numbers that are not finite: choose precision float32")
        halves = vectors.cpu().numpy().astype(np.float16)
        if not self.grid:
            return [PictureVector(vector) for vector in halves]
        pixels = inputs["pixel_values"].shape
        if places is None or (places.ndim == 3 and (len(pixels) != 4 or pixels[2] != pixels[3])):
            raise ValueError("it has no patches, or not those of a square: leave grid at 0")
        patches = torch.nn.functional.normalize(pool_cells(places.float(), self.grid), dim=2)
        return [PictureVector(*pair) for pair in zip(halves, patches.cpu().numpy().astype(np.float16), strict=True)]

    def _pool(self, inputs: dict[str, "torch.Tensor"]) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        """Return a vector per picture: in the space of texts if the model reads these, else pooled, else the mean of all.

        And what the model makes of a picture's places: tokens (n, t, d), or a map (n, d, h, w).
        """
        if hasattr(self._model, "get_image_features"):
            output = self._model.get_image_features(**inputs)
            return output.pooler_output, getattr(output, "last_hidden_state", None)
        output = self._model(**inputs)
        places = output.last_hidden_state
        pooled = getattr(output, "pooler_output", None) if self._has_pooler else None
        if pooled is None:
            pooled = places.mean(dim=1) if places.ndim == 3 else places.mean(dim=(2, 3))
        return pooled, places


@dataclass
class ChineseClip(TransformersVision):
    """Pictures and texts to vectors of unit length; alike ones have a high cosine."""

    model: str = CHINESE_CLIP

    def weights(self) -> list[Path]:
        """Return the files of weights, configuration and vocabulary; RequestError when there is no Chinese-CLIP."""
        folder, kind = find_folder(self.model)
        if kind != "chinese_clip":
            raise RequestError(f"{folder}: expected a Chinese-CLIP, found {kind!r}: that needs backend transformers")
        return super().weights()

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return float(self._model.logit_scale.detach().float().exp())

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector per text, float32 (n, d) of unit length; texts are cut after 52 tokens."""
        import torch
        from transformers import AutoTokenizer

        folder, _ = find_folder(self.model)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), TEXTS_TOGETHER):
            some = list(texts[start : start + TEXTS_TOGETHER])
            tokens = tokenizer(some, padding=True, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt")
            with torch.inference_mode():
                found = self._model.get_text_features(**tokens.to(self._device)).pooler_output.float()
            vectors.append(torch.nn.functional.normalize(found).cpu().numpy())
        return np.concatenate(vectors)


def pool_cells(places: "torch.Tensor", grid: int) -> "torch.Tensor":
    """Return the means of pictures' cells (n, grid * grid, d), row by row, from tokens (n, t, d) or a map (n, d, h, w).

    The last tokens are a square of patches; those before them stand for the whole picture.
    """
    import torch

    if places.ndim == 3:
        side = isqrt(places.shape[1])
        places = places[:, -side * side :].transpose(1, 2).reshape(len(places), -1, side, side)
    return torch.nn.functional.adaptive_avg_pool2d(places, grid).flatten(2).transpose(1, 2)


def choose_precision(device: str) -> str:
    """Return float16 for a GPU, for a CPU bfloat16 where it multiplies such numbers itself, else float32."""
    import torch

    if choose_device(device).type == "cuda":
        return "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def trim_picture(picture: np.ndarray) -> np.ndarray:
    """Return the picture, or its middle where one side is more than `WIDEST` times the other."""
    height, width = picture.shape[:2]
    top = max(0, height - WIDEST * width) // 2
    left = max(0, width - WIDEST * height) // 2
    return picture[top : height - top, left : width - left]

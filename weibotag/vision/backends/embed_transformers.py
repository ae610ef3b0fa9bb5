"""Picture vectors by any vision model that transformers loads, those of timm included."""

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backends.torch_device import choose_device
from weibotag.vision.backends.transformers_model import (
    BLANK,
    GPU_BATCH,
    Pretrained,
    find_folder,
    first_line,
    load_pretrained,
)

if TYPE_CHECKING:
    import torch

# A picture is cut to its middle when one side is more than so many times the other: models that scale the short side to 224
# pixels would blow up a strip of 1 x 4096 to two hundred million.
WIDEST = 16


class TransformersVision(Pretrained):
    """Pictures to vectors of unit length, float16 of the model's width; with a `grid`, also the means of its cells."""

    default_model: ClassVar[str] = ""

    def __init__(self, model: str | None = None, precision: str = "auto", device: str = "auto", grid: int = 0) -> None:
        super().__init__(model or self.default_model, device)
        self.grid = grid
        self.precision = precision
        self._model: Any = None

    def open(self, threads: int = 1) -> None:
        """Load the model; RequestError where it can't be, or gives no vectors, or another one for the same picture."""
        import torch

        folder, _ = find_folder(self.model)
        self._device = self._start(threads)
        precision = choose_precision(self.device) if self.precision == "auto" else self.precision
        self._type: torch.dtype = getattr(torch, precision)
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
            first, second = (np.concatenate(self.look([picture])[0], axis=None) for _ in range(2))
        except Exception as error:
            raise RequestError(f"{folder}: this model gives no picture vectors: {first_line(error)}") from error
        if not np.array_equal(first, second):
            raise RequestError(
                f"{folder}: this model gives the same picture two vectors: choose one that draws nothing at random"
            )

    def close(self) -> None:
        """Let the model go."""
        super().close()
        self._model = None

    def _prepare(self, picture: np.ndarray) -> dict[str, "torch.Tensor"]:
        from PIL import Image

        # As a picture of Pillow: of an array of three rows or columns the processors guess which side is colour.
        return dict(self._processor(images=Image.fromarray(trim_picture(picture)), return_tensors="pt"))

    def _embed(self, pictures: Sequence[np.ndarray]) -> list[Any]:
        import torch

        prepared = [self._prepare(picture) for picture in pictures]
        inputs = {name: torch.cat([one[name] for one in prepared]).to(self._device) for name in prepared[0]}
        with torch.inference_mode():
            cast = {name: x.to(self._type) if x.is_floating_point() else x for name, x in inputs.items()}
            pooled, places = self._pool(cast)
            vectors = torch.nn.functional.normalize(pooled.float().flatten(1))
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("the model gave numbers that are not finite: choose precision float32")
        answers = list(vectors.cpu().numpy().astype(np.float16))
        if not self.grid:
            return answers
        pixels = inputs["pixel_values"].shape
        if places is None or (places.ndim == 3 and (len(pixels) != 4 or pixels[2] != pixels[3])):
            raise ValueError("it has no patches, or not those of a square: leave grid at 0")
        patches = torch.nn.functional.normalize(pool_cells(places.float(), self.grid), dim=2)
        return list(zip(answers, patches.cpu().numpy().astype(np.float16), strict=True))

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


def pool_cells(places: "torch.Tensor", grid: int) -> "torch.Tensor":
    """Return the means of pictures' cells (n, grid * grid, d), row by row, from tokens (n, t, d) or a map (n, d, h, w).

    The last tokens are a square of patches; those before them stand for the whole picture.
    """
    import torch

    if places.ndim == 3:
        side = isqrt(places.shape[1])
        places = places[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
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

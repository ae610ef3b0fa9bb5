"""Picture vectors by any vision model that transformers loads, those of timm included."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weibotag.errors import RequestError

if TYPE_CHECKING:
    import torch

TIMM = "timm:"
WEIGHTS = ".safetensors"
# The other files of a model's folder that its answers may depend on: settings and vocabularies.
SETTINGS = (".json", ".txt", ".model")
# Pictures that a GPU looks at together.
BATCH = 16
# A picture is cut to its middle when one side is more than so many times the other: models that scale the short side to 224
# pixels would blow up a strip of 1 x 4096 to two hundred million.
WIDEST = 16


class TransformersVision:
    """Pictures to vectors of unit length by a model of a folder, hf:owner/name or timm:name."""

    default_model: ClassVar[str | None] = None

    def __init__(self, model: str | None = None, precision: str = "auto", device: str = "auto") -> None:
        self.errors: tuple[type[Exception], ...] = ()
        self._name = model or self.default_model
        self._precision = precision
        self._asked_device = device
        self._model: Any = None

    def weights(self) -> list[Path]:
        """Return the files of weights, settings and vocabulary; RequestError when there is no such model."""
        folder = self._folder()
        files = sorted(path for path in folder.iterdir() if path.suffix in (WEIGHTS, *SETTINGS))
        if not (folder / "config.json").is_file() or not any(path.suffix == WEIGHTS for path in files):
            raise RequestError(f"{folder}: no model of transformers or timm: expected config.json and *{WEIGHTS} in it")
        return files

    def open(self, threads: int = 1) -> None:
        """Load the model, on a CPU to run on `threads` threads.

        Raises RequestError where transformers can't load it, or where it gives no vectors.
        """
        import torch
        from transformers import AutoConfig, AutoImageProcessor, AutoModel
        from transformers.utils import logging

        from weibotag.backends.torch_device import choose_device, limit_threads, torch_errors

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        limit_threads(threads)
        folder = self._folder()
        self._device = choose_device(self._asked_device)
        precision = choose_precision(self._asked_device) if self._precision == "auto" else self._precision
        self._type: torch.dtype = getattr(torch, precision)
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, **local)
            config = AutoConfig.from_pretrained(folder, **local)
            if config.model_type == "timm_wrapper" and config.model_args:
                # Newer timm writes it here too, where the wrapper, which gives its own, stumbles over it.
                config.model_args.pop("num_classes", None)
            model, report = AutoModel.from_pretrained(
                folder, config=config, dtype=self._type, use_safetensors=True, output_loading_info=True, **local
            )
        except Exception as error:
            said = (str(error).strip().splitlines() or ["no message"])[0]
            raise RequestError(f"{folder}: transformers can't load this model: {type(error).__name__}: {said}") from error
        missing = sorted(report["missing_keys"])
        # Checkpoints of classifiers have no weights for a pooler: it would start at random, otherwise in each process.
        self._has_pooler = not any("pooler" in name for name in missing)
        absent = [name for name in missing if "pooler" not in name]
        if absent:
            raise RequestError(f"{folder}: the weights lack {absent[0]} and {len(absent) - 1} more: expected a whole model")
        self._model = model.to(self._device).eval()
        self.errors = torch_errors()
        # One by one on a CPU, where a batch gains a twentieth; on a GPU always as many, because other numbers of pictures
        # take other kernels, whose sums differ in the last bits.
        self._batch = BATCH if self._device.type == "cuda" else 1
        self._try_out(folder)

    def look(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return a vector per picture, (h, w, 3) uint8 RGB: float16 of the model's width and of unit length."""
        import torch

        inputs = [self._prepare(picture) for picture in pictures]
        vectors: list[np.ndarray] = []
        while len(vectors) < len(inputs):
            some = inputs[len(vectors) : len(vectors) + self._batch]
            try:
                vectors += self._embed(some + some[-1:] * (self._batch - len(some)))[: len(some)]
            except torch.cuda.OutOfMemoryError:
                # Fewer pictures from outside would be filled up again to as many.
                if self._batch == 1:
                    raise
                self._batch //= 2
        return vectors

    def close(self) -> None:
        """Let the model go."""
        self._model = None
        self._processor = None

    def _folder(self) -> Path:
        from weibotag.models import find_model

        if self._name is None:
            raise RequestError("[embed]: this backend needs a model: set model to a folder, hf:owner/name or timm:name")
        name = f"hf:timm/{self._name.removeprefix(TIMM)}" if self._name.startswith(TIMM) else self._name
        folder = find_model(name)
        if not folder.is_dir():
            raise RequestError(f"{folder}: expected the folder of a model, found a file")
        return folder

    def _try_out(self, folder: Path) -> None:
        """Warm the model up; raises RequestError where it answers with no vector, or with another one each time."""
        picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        try:
            first, second = self.look([picture])[0], self.look([picture])[0]
        except Exception as error:
            said = (str(error).strip().splitlines() or ["no message"])[-1]
            raise RequestError(f"{folder}: this model gives no picture vectors: {type(error).__name__}: {said}") from error
        if not np.array_equal(first, second):
            raise RequestError(
                f"{folder}: this model gives the same picture two vectors: choose one that draws nothing at random"
            )

    def _prepare(self, picture: np.ndarray) -> dict[str, "torch.Tensor"]:
        from PIL import Image

        # As a picture of Pillow: of an array of three rows or columns the processors guess which side is colour.
        return dict(self._processor(images=Image.fromarray(trim_picture(picture)), return_tensors="pt"))

    def _embed(self, inputs: list[dict[str, "torch.Tensor"]]) -> list[np.ndarray]:
        import torch

        together = {name: torch.cat([one[name] for one in inputs]).to(self._device) for name in inputs[0]}
        with torch.inference_mode():
            vectors = self._pool({name: self._cast(tensor) for name, tensor in together.items()}).float()
            vectors = torch.nn.functional.normalize(vectors.flatten(1))
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("the model gave numbers that are not finite: choose precision float32")
        return list(vectors.cpu().numpy().astype(np.float16))

    def _cast(self, tensor: "torch.Tensor") -> "torch.Tensor":
        return tensor.to(self._type) if tensor.is_floating_point() else tensor

    def _pool(self, inputs: dict[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return a vector per picture: in the space of texts if the model reads these, else pooled, else the mean of all."""
        if hasattr(self._model, "get_image_features"):
            return self._model.get_image_features(**inputs).pooler_output
        output = self._model(**inputs)
        pooled = getattr(output, "pooler_output", None) if self._has_pooler else None
        if pooled is not None:
            return pooled
        places = output.last_hidden_state
        return places.mean(dim=1) if places.ndim == 3 else places.mean(dim=(2, 3))


def choose_precision(device: str) -> str:
    """Return float16 for a GPU, for a CPU bfloat16 where it multiplies such numbers itself, else float32."""
    import torch

    from weibotag.backends.torch_device import choose_device

    if choose_device(device).type == "cuda":
        return "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def trim_picture(picture: np.ndarray) -> np.ndarray:
    """Return the picture, or its middle where one side is more than `WIDEST` times the other."""
    height, width = picture.shape[:2]
    top = max(0, height - WIDEST * width) // 2
    left = max(0, width - WIDEST * height) // 2
    return picture[top : height - top, left : width - left]

"""Models of transformers in folders: safetensors only, no code from the folder, nothing from the network."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backends.torch_device import choose_device, limit_threads, torch_errors
from weibotag.vision.weights.catalogue import find_model

if TYPE_CHECKING:
    import torch

TIMM = "timm:"
CONFIG = "config.json"
# Of a model's folder: settings, vocabularies, weights.
FILE_KINDS = frozenset({".json", ".txt", ".model", ".safetensors"})
# On a GPU every batch is filled up to so many: of other numbers of pictures the last bits differ.
GPU_BATCH = 16
BLANK = np.zeros((1, 1, 3), np.uint8)


class Pretrained:
    """A model of a folder, hf:owner/name or timm:name; `open` sets `_find`, from pictures to answers, and `_batch`."""

    def __init__(self, model: str, device: str) -> None:
        self.model = f"hf:timm/{model.removeprefix(TIMM)}" if model.startswith(TIMM) else model
        self.device = device
        self.errors: tuple[type[Exception], ...] = ()
        self._find: Callable[[Sequence[np.ndarray]], list[Any]] | None = None
        # One by one: on a CPU a batch is no faster.
        self._batch = 1

    def weights(self) -> list[Path]:
        """Return the files of the model's folder that answers depend on; RequestError when there is no such model."""
        folder, _ = find_folder(self.model)
        return sorted(path for path in folder.iterdir() if path.suffix in FILE_KINDS)

    def look(self, pictures: Sequence[np.ndarray]) -> list[Any]:
        """Return an answer per picture, uint8 RGB (height, width, 3) of any size; may raise what `errors` names."""
        import torch

        assert self._find is not None
        answers: list[Any] = []
        while len(answers) < len(pictures):
            some = pictures[len(answers) : len(answers) + self._batch]
            try:
                answers += self._find([*some, *[BLANK] * (self._batch - len(some))])[: len(some)]
            except torch.cuda.OutOfMemoryError:
                # Fewer pictures from outside would be filled up again to as many.
                if self._batch == 1:
                    raise
                self._batch //= 2
        return answers

    def close(self) -> None:
        """Let the model go."""
        self._find = None

    def _start(self, threads: int) -> "torch.device":
        limit_threads(threads)
        self.errors = torch_errors()
        return choose_device(self.device)


def find_folder(name: str) -> tuple[Path, str]:
    """Return a model's folder and what its settings call its architecture, or nothing; RequestError where there is none."""
    if not name:
        raise RequestError("this backend needs a model: set model to a folder, hf:owner/name or timm:name")
    folder = find_model(name)
    if not (folder / CONFIG).is_file() or not any(folder.glob("*.safetensors")):
        raise RequestError(f"{folder}: found no {CONFIG} with .safetensors; expected a folder as save_pretrained writes it")
    try:
        return folder, str(json.loads((folder / CONFIG).read_bytes()).get("model_type", ""))
    except (ValueError, AttributeError) as error:
        raise RequestError(f"{folder / CONFIG}: no settings of a model: take it from its source again") from error


def load_pretrained(folder: Path, processor: str, model: str, **options: Any) -> tuple[Any, Any, bool]:
    """Return a folder's processor and model, by the names of their classes, and whether all weights of the model are there.

    Those of a pooler may be absent, and are random then. Raises RequestError when others are, or transformers can't load it.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        if config.model_type == "timm_wrapper" and config.model_args:
            # Newer timm writes it here too, where the wrapper, which gives its own, stumbles over it.
            config.model_args.pop("num_classes", None)
            options["config"] = config
        reader = getattr(transformers, processor).from_pretrained(folder, **local)
        loaded, report = getattr(transformers, model).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local, **options
        )
    except Exception as error:
        raise RequestError(f"{folder}: transformers can't load this model: {first_line(error)}") from error
    weights = {name for name, _ in loaded.named_parameters()}
    absent = [name for name in report["missing_keys"] if name in weights or name.endswith(("running_mean", "running_var"))]
    needed = sorted(name for name in absent if "pooler" not in name)
    if needed:
        raise RequestError(f"{folder}: {len(needed)} weights are absent ({needed[0]} …): expected a whole model")
    return reader, loaded, not absent


def first_line(error: Exception) -> str:
    """Return an error's name and what it says first."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]

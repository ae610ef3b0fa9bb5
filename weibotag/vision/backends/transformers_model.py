"""Models of transformers in folders: safetensors only, no code from the folder, nothing from the network."""

import json
from pathlib import Path
from typing import Any

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Answer
from weibotag.vision.backends.torch_device import TorchBackend
from weibotag.vision.weights.catalogue import TIMM, find_model

CONFIG = "config.json"
# Of a model's folder: settings, vocabularies, weights.
FILE_KINDS = frozenset({".json", ".txt", ".model", ".safetensors"})


class Pretrained(TorchBackend[Answer]):
    """A model of a folder, hf:owner/name or timm:name."""

    model: str
    device: str

    def weights(self) -> list[Path]:
        """Return the files of the model's folder that answers depend on; RequestError when there is no such model."""
        folder, _ = find_folder(self.model)
        return sorted(path for path in folder.iterdir() if path.suffix in FILE_KINDS)


def find_folder(name: str) -> tuple[Path, str]:
    """Return a model's folder and what its settings call its architecture, or nothing; RequestError where there is none."""
    if not name:
        raise RequestError("this backend needs a model: set model to a folder, hf:owner/name or timm:name")
    folder = find_model(f"hf:timm/{name.removeprefix(TIMM)}" if name.startswith(TIMM) else name)
    if not (folder / CONFIG).is_file() or not any(folder.glob("*.safetensors")):
        raise RequestError(f"{folder}: found no {CONFIG} with .safetensors; expected a folder as save_pretrained writes it")
    try:
        return folder, str(json.loads((folder / CONFIG).read_bytes()).get("model_type", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        raise RequestError(f"{folder / CONFIG}: no settings of a model: take it from its source again") from error


def load_pretrained(folder: Path, processor: str, model: str, **options: Any) -> tuple[Any, Any, bool]:
    """Return a folder's processor and model, by the names of their classes, and whether all weights of the model are there.

    Those of a pooler may be absent, and are random then. Raises RequestError when others are, or transformers can't load it.
    """
    import transformers

    log: Any = transformers.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
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

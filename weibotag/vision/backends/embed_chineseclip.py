"""Chinese-CLIP (Yang et al., 2022): vectors of pictures and of Chinese texts in one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backends.embed_transformers import TransformersVision
from weibotag.vision.backends.transformers_model import find_folder

# The hub's own conversion: the main branch has the weights as a pickle only.
MODEL = "hf:OFA-Sys/chinese-clip-vit-base-patch16@refs/pr/1"
# Tokens that the model was trained with.
LONGEST_TEXT = 52
TEXTS_TOGETHER = 64


class ChineseClip(TransformersVision):
    """Pictures and texts to vectors of unit length; alike ones have a high cosine."""

    default_model: ClassVar[str] = MODEL

    def weights(self) -> list[Path]:
        """Return the files of weights, configuration and vocabulary; RequestError when there is no Chinese-CLIP."""
        folder, kind = find_folder(self.model)
        if kind != "chinese_clip":
            raise RequestError(
                f"{folder}: expected a Chinese-CLIP, found {kind!r}: for other models choose backend transformers"
            )
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

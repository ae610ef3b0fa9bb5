"""Detectors of transformers: closed classes (RT-DETRv2, D-FINE, …), or what prompts name (Grounding DINO, OWLv2).

RT-DETRv2: https://arxiv.org/abs/2407.17140, D-FINE: https://arxiv.org/abs/2410.13842, Grounding DINO:
https://arxiv.org/abs/2303.05499, OWLv2: https://arxiv.org/abs/2306.09683. No pickled weights, no code from model folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import DetectedObject, list_objects
from weibotag.vision.backends.torch_device import GPU_BATCH, choose_device, choose_precision
from weibotag.vision.backends.transformers_model import Pretrained, find_folder, first_line, load_pretrained

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "hf:PekingU/rtdetr_v2_r18vd"
GROUNDING = frozenset({"grounding-dino", "mm-grounding-dino"})
PROMPTED = GROUNDING | {"owlvit", "owlv2"}
# Slimmer pictures are padded to this ratio of sides: scaled as they are, nothing would be left of the short one.
SLIMMEST = 16
# OWLv2 pads to a square before it reduces: a page of 9,000 pixels would take gigabytes.
LONGEST = 2048
OVERLAP = 0.7


@dataclass
class Transformers(Pretrained[list[DetectedObject]]):
    """Objects by a model folder of transformers.

    `model`: a folder or a name that `find_model` knows; `min_score`: 0 to 1; `classes`: what a model of an open vocabulary
    looks for, each "prompt" or "prompt=label", best in English.
    """

    model: str = DEFAULT_MODEL
    min_score: float = 0.4
    classes: Sequence[str] = ()
    device: str = "auto"

    def weights(self) -> list[Path]:
        """Return the files of the model folder; RequestError when they, or the classes to look for, are not there."""
        _, kind = find_folder(self.model)
        if kind in PROMPTED and not self.classes:
            raise RequestError(f"{self.model}: a {kind} looks for what classes name, and there are none: set classes")
        if kind not in PROMPTED and self.classes:
            raise RequestError(f"{self.model}: a {kind} knows its own classes: leave classes out, or use Grounding DINO")
        return super().weights()

    def open(self, threads: int = 1) -> None:
        """Load the model onto its device: half precision on a GPU."""
        self.weights()
        folder, kind = find_folder(self.model)
        self._start(threads)
        device = choose_device(self.device)
        names = ("AutoImageProcessor", "AutoModelForObjectDetection")
        if kind in PROMPTED:
            names = ("AutoProcessor", "AutoModelForZeroShotObjectDetection")
        processor, model, _ = load_pretrained(folder, *names, dtype="float32")
        model = model.to(device, choose_precision(device)).eval()
        if kind in PROMPTED:
            self._find = partial(find_prompted, model, processor, read_prompts(self.classes), self.min_score)
        else:
            self._find = partial(find_objects, model, processor, self.min_score)
            # Only pictures of one size go together: padding to the largest would change what is found in the others.
            if device.type == "cuda" and processor.size.height and processor.size.width:
                self._batch = GPU_BATCH
        try:
            self.look([np.zeros((64, 64, 3), np.uint8)])
        except self.errors as error:
            raise RequestError(f"{self.model}: can't look at a picture with these settings: {first_line(error)}") from error


def find_objects(model: Any, processor: Any, min_score: float, pictures: Sequence[np.ndarray]) -> list[list[DetectedObject]]:
    """Return the objects of pictures that a model of closed classes finds, best first."""
    tensors = [to_tensor(picture) for picture in pictures]
    inputs = processor(images=tensors, return_tensors="pt", input_data_format="channels_first", device=model.device)
    sizes = [tuple(tensor.shape[1:]) for tensor in tensors]
    answers = processor.post_process_object_detection(run_model(model, inputs), threshold=min_score, target_sizes=sizes)
    return [cut_objects(picture, answer, model.config.id2label) for picture, answer in zip(pictures, answers, strict=True)]


def find_prompted(
    model: Any, processor: Any, labels: dict[str, str], min_score: float, pictures: Sequence[np.ndarray]
) -> list[list[DetectedObject]]:
    """Return the objects of one picture that prompts name, best first; `labels`: prompts and what each finds is called."""
    from torchvision.ops import batched_nms
    from torchvision.transforms.v2.functional import resize

    (picture,) = pictures
    tensor = to_tensor(picture)
    size = tuple(tensor.shape[1:])
    if max(size) > LONGEST:
        tensor = resize(tensor, None, max_size=LONGEST)
    grounding = model.config.model_type in GROUNDING
    inputs = processor(
        images=[tensor],
        text=". ".join(labels) + "." if grounding else [list(labels)],
        return_tensors="pt",
        input_data_format="channels_first",
        device=model.device,
    )
    ids = inputs["input_ids"][0].to(model.device)
    if grounding and len(ids) > model.config.max_text_len:
        raise RequestError(f"classes: {len(ids)} tokens, and this model reads {model.config.max_text_len}: name fewer")
    outputs = run_model(model, inputs)
    if grounding:
        outputs.logits = score_prompts(outputs.logits, ids, processor.tokenizer, len(labels))
    answers = processor.image_processor.post_process_object_detection(outputs, threshold=min_score, target_sizes=[size])
    # These kinds, OWLv2 above all, find one thing several times.
    kept = batched_nms(answers[0]["boxes"], answers[0]["scores"], answers[0]["labels"], OVERLAP)
    answer = {name: values[kept] for name, values in answers[0].items()}
    return [cut_objects(picture, answer, dict(enumerate(labels.values())))]


def read_prompts(classes: Sequence[str]) -> dict[str, str]:
    """Return prompts, in small letters and without marks that would end them, with the label of each; else RequestError."""
    labels = {}
    for entry in classes:
        prompt, _, label = entry.partition("=")
        words = " ".join(prompt.lower().replace(".", " ").replace("?", " ").split())
        if not words:
            raise RequestError(f'classes: {entry!r} names nothing to look for; expected "prompt" or "prompt=label"')
        labels[words] = label.strip() or words
    return labels


def to_tensor(picture: np.ndarray) -> "torch.Tensor":
    """Return a writable copy, uint8 (3, height, width), of a picture; a slim one gets black at its right or lower side."""
    import torch

    height, width = picture.shape[:2]
    canvas = np.zeros((3, max(height, -(-width // SLIMMEST)), max(width, -(-height // SLIMMEST))), np.uint8)
    canvas[:, :height, :width] = picture.transpose(2, 0, 1)
    return torch.from_numpy(canvas)


def run_model(model: Any, inputs: Any) -> Any:
    """Return a model's outputs for the inputs that its processor made, logits and boxes as float32."""
    import torch

    with torch.inference_mode():
        outputs = model(**inputs.to(model.device, model.dtype))
    outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
    return outputs


def score_prompts(logits: "torch.Tensor", ids: "torch.Tensor", tokenizer: Any, count: int) -> "torch.Tensor":
    """Return logits (1, queries, prompts), of each prompt the highest of its tokens', from those of a text's tokens."""
    import torch

    ends = ids == tokenizer.convert_tokens_to_ids(".")
    words = ~ends & (ids != tokenizer.cls_token_id)
    return torch.stack([logits[..., torch.nonzero(words & (ends.cumsum(0) == n))[:, 0]].amax(-1) for n in range(count)], -1)


def cut_objects(picture: np.ndarray, answer: dict[str, "torch.Tensor"], names: Mapping[int, str]) -> list[DetectedObject]:
    """Return what a processor found as objects, best first, boxes cut to the picture; what lies outside is left out."""
    height, width = picture.shape[:2]
    corners = np.clip(np.reshape(answer["boxes"].tolist(), (-1, 4)), 0, (width, height, width, height))
    return list_objects(corners, answer["scores"].tolist(), [names[number] for number in answer["labels"].tolist()])

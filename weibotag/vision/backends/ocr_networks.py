"""The networks that find and read text, as plain calls: a batch in, arrays out, whatever engine runs them."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from weibotag.core.errors import MissingExtraError
from weibotag.vision.backends.onnx_session import open_session, session_errors

Network = Callable[[np.ndarray], list[np.ndarray]]


def open_network(model: Path | bytes, engine: str, threads: int, device: str) -> Network:
    """Return a call that takes a float32 batch (n, 3, height, width) and gives the network's outputs.

    `engine`: openvino (CPU only, always in float32), or auto or onnxruntime, whose CUDA is used where `device` allows.
    """
    if engine != "openvino":
        session = open_session(model, threads, device)
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch})
    import openvino

    core = openvino.Core()
    # Where a CPU has bfloat16 it would be the default, and answers would depend on the machine.
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

    def run(batch: np.ndarray) -> list[np.ndarray]:
        request.infer([batch])
        # The next call writes over the tensors.
        return [tensor.data.copy() for tensor in request.output_tensors]

    return run


def check_engine(engine: str) -> None:
    """Raise MissingExtraError where the engine is not installed."""
    if engine == "openvino" and find_spec("openvino") is None:
        raise MissingExtraError("ocr with engine openvino", "openvino")


def network_errors(engine: str) -> tuple[type[Exception], ...]:
    """Return what a network raises for a batch that it can't work on, its being out of memory included."""
    return (RuntimeError, MemoryError) if engine == "openvino" else (*session_errors(), MemoryError)


def load_recogniser(path: Path) -> tuple[bytes, list[str]]:
    """Return a recogniser that gives the likeliest letter of each step, and the letters, of which the first is none.

    Its outputs are probabilities and numbers of letters, (n, steps, 1) each: of the whole alphabet's probabilities, 18,710
    a step, nothing else is used, and a GPU would take longer to hand them over than to reckon them.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    letters = next(entry.value for entry in model.metadata_props if entry.key == "character").splitlines()
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    graph.node.append(onnx.helper.make_node("TopK", [graph.output[0].name, "one"], ["probability", "letter"], axis=2))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, None))
    graph.output.append(onnx.helper.make_tensor_value_info("letter", onnx.TensorProto.INT64, None))
    return model.SerializeToString(), ["", *letters, " "]


def in_batches(pictures: Sequence[np.ndarray], most_pixels: int) -> Iterator[list[int]]:
    """Yield the places of pictures of one shape, together no more than `most_pixels` unless one alone has more."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        alike.setdefault(picture.shape, []).append(place)
    for (height, width, _), places in alike.items():
        step = max(1, most_pixels // (height * width))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def normalise(pictures: Sequence[np.ndarray], mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    """Return uint8 RGB pictures of one shape as a float32 batch (n, 3, height, width), channels BGR.

    `mean` and `deviation` are of B, G and R, 0 to 1.
    """
    batch = np.empty((len(pictures), 3, *pictures[0].shape[:2]), np.float32)
    for picture, planes in zip(pictures, batch, strict=True):
        for channel, plane in enumerate(planes):
            np.multiply(picture[:, :, 2 - channel], np.float32(1 / 255 / deviation[channel]), out=plane)
            plane -= np.float32(mean[channel] / deviation[channel])
    return batch


def best_path(probabilities: np.ndarray, numbers: np.ndarray, letters: Sequence[str]) -> tuple[str, float]:
    """Return the text of one line's steps and the mean probability of its letters (greedy CTC decoding; Graves 2006)."""
    probabilities, numbers = probabilities.ravel(), numbers.ravel()
    fresh = (numbers != 0) & np.append(True, numbers[1:] != numbers[:-1])
    text = "".join(letters[number] for number in numbers[fresh])
    return text.strip(), float(probabilities[fresh].mean()) if fresh.any() else 0.0

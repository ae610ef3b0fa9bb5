"""Tensors of a file that torch's old `save` wrote (a dictionary of tensors, one pickle after the other), without torch.

The pickle may name nothing but tensors and their storages: no code of the file, and no code that it names, is run. Its
memory is not bounded: who reads a file has checked its hash.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from weibotag.core.errors import RequestError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
KINDS = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class Storage:
    """Numbers in the file: their kind, their key, how many."""

    kind: np.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A part of a storage: from which number on, and how many numbers on the next of each axis is."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuild(storage: Storage, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Tensor:
    """Return a tensor as torch's function of that place in the file would; ValueError where it leaves its storage."""
    ends = [(count - 1) * step for count, step in zip(shape, strides, strict=True)]
    if not isinstance(storage, Storage) or min((start, *shape, *strides)) < 0 or start + sum(ends) >= storage.count:
        raise ValueError("a tensor that does not lie in its storage")
    return Tensor(storage, start, tuple(shape), tuple(strides))


class TensorUnpickler(pickle.Unpickler):
    """Reads dictionaries of tensors, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the few names that such a file needs; UnpicklingError for any other."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if module == "torch" and name in KINDS:
            return KINDS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that ("storage", kind, key, device, count, view) means."""
        _, kind, key, _, count, _ = pid
        return Storage(kind, key, count)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name; RequestError for any other file, and for one that is cut or damaged."""
    try:
        with path.open("rb") as file:
            if pickle_of(file) != MAGIC or pickle_of(file) != VERSION or not pickle_of(file)["little_endian"]:
                raise ValueError("not what torch's old save writes")
            tensors, keys = pickle_of(file), pickle_of(file)
            wanted = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
            numbers = {key: read_storage(file, wanted[key]) for key in keys}
        return {name: cut(numbers[tensor.storage.key], tensor) for name, tensor in tensors.items()}
    except (OSError, pickle.UnpicklingError, ValueError, TypeError, KeyError, AttributeError, EOFError, IndexError) as error:
        raise RequestError(f"{path}: no file of tensors that can be read: {error}") from error


def pickle_of(file: BinaryIO) -> Any:
    """Return what the next pickle of the file holds."""
    return TensorUnpickler(file).load()


def read_storage(file: BinaryIO, storage: Storage) -> np.ndarray:
    """Return the numbers that stand at the file's place; ValueError where it says other than `storage` does, or ends."""
    count = int.from_bytes(file.read(8), "little")
    data = file.read(storage.count * storage.kind.itemsize) if count == storage.count else b""
    if len(data) != count * storage.kind.itemsize:
        raise ValueError("its numbers are not as many as it says")
    return np.frombuffer(data, storage.kind)


def cut(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return a tensor of its storage's numbers."""
    strides = [step * numbers.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.start :], tensor.shape, strides, writeable=False)

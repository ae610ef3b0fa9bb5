"""The one door through which files that weibotag wrote come back: absent, damaged or altered is one error, in one line.

Nothing that such a file says is used before its size, kind, types, shapes and ranges are known to be right. A digest tells
damage; it keeps nobody out, as whoever alters a file can write its digest, too.
"""

import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from weibotag.core.arrays import are_offsets
from weibotag.core.errors import OwnFileError
from weibotag.core.files import atomic, sha256_of

MOST_JSON = 64 << 20
MOST_TENSORS = 16 << 30
# Of a table once it is read, and rows that are read at once to find out.
MOST_TABLE, ROWS = 2 << 30, 1_024
REASON_LENGTH = 200
DIGEST = "sha256"
KINDS = {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool", "U8": "uint8", "U16": "uint16"}
KINDS |= {"U32": "uint32", "I32": "int32", "I64": "int64"}

_adapters: dict[Any, Any] = {}
Found = TypeVar("Found")
# A tensor's dtype (or several, with | between), then its sizes: numbers, or names that stand for one size each in all
# tensors of a file, with +1 or -1.
TensorType = tuple[str | int, ...]
TensorTypes = Mapping[str, TensorType]
# What scipy numbers the rows and places of a sparse matrix with.
INDEX = "int32|int64"


@dataclass(frozen=True)
class Origin:
    """What a file is and what to do about one that can't be used: "a gallery", "build it again"."""

    what: str
    remedy: str

    def fault(self, path: Path, found: object) -> OwnFileError:
        """Return the error that says what was found in a file."""
        reason = " ".join(str(found).split())[:REASON_LENGTH]
        return OwnFileError(f"{path}: {reason or 'it can not be read'}; expected {self.what}: {self.remedy}")

    def need(self, path: Path, holds: bool | np.bool_, found: str) -> None:
        """Raise OwnFileError unless something holds; `found` says what was found instead."""
        if not holds:
            raise self.fault(path, found)


def check_file(path: Path, origin: Origin, most: int) -> int:
    """Return the size of a file in bytes; raises OwnFileError unless it is a regular file of at most so many."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise origin.fault(path, f"can't be read ({getattr(error, 'strerror', None) or error})") from error
    origin.need(path, stat.S_ISREG(found.st_mode), "found no file")
    origin.need(path, found.st_size <= most, f"found {found.st_size:,} bytes, {most:,} at most can be right")
    return found.st_size


def read_json(path: Path, kind: type[Found], origin: Origin, most: int = MOST_JSON) -> Found:
    """Return what a JSON file holds, as a pydantic model, dataclass or TypedDict (of typing_extensions) has it."""
    check_file(path, origin, most)
    try:
        return parse_json(path, path.read_bytes(), kind, origin)
    except OSError as error:
        raise origin.fault(path, f"can't be read ({error.strerror})") from error


def parse_json(path: Path, text: bytes | str, kind: type[Found], origin: Origin) -> Found:
    """Return what a JSON text of a file holds: see `read_json`; all its numbers are finite."""
    from pydantic import ValidationError
    from pydantic_core import from_json

    try:
        value = from_json(text, allow_inf_nan=False)
        origin.need(path, _is_finite(value), "found a number that is not finite")
        found: Found = _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise origin.fault(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise origin.fault(path, f"not JSON ({error})") from error
    return found


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _is_finite(value: object) -> bool:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return False
        if isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return True


def read_table(path: Path, schema: pa.Schema, origin: Origin) -> pa.Table:
    """Return a Parquet file that has exactly the columns of a schema, whatever its metadata."""
    check_file(path, origin, MOST_TENSORS)
    batches, size = [], 0
    try:
        with pq.ParquetFile(path.absolute(), page_checksum_verification=True) as file:
            found = file.schema_arrow
            origin.need(path, found.remove_metadata() == schema.remove_metadata(), "found other columns than it has")
            for batch in file.iter_batches(ROWS):
                size += batch.nbytes
                origin.need(path, size <= MOST_TABLE, f"found more than {MOST_TABLE:,} bytes of rows")
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, found)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise origin.fault(path, f"no Parquet that can be read ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], about: tuple[str, Mapping[str, Any]] | None = None) -> None:
    """Write arrays as safetensors, whole or not at all; `about`, for JSON, goes into its metadata, with a digest.

    Files of a folder whose JSON has their digests need no `about`.
    """
    from safetensors.numpy import save

    kept = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = None
    if about is not None:
        # One key: the order of several is another each time.
        key, said = about
        metadata = {key: json.dumps({**said, DIGEST: _digest(kept)}, ensure_ascii=False)}
    with atomic(path) as file:
        file.write(save(kept, metadata))


def read_tensors(
    path: Path,
    expected: TensorTypes | Callable[[Collection[str]], TensorTypes] | None,
    origin: Origin,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Return the finite arrays of a safetensors file: those expected, or expected for the names there; None: any.

    `sizes` are named sizes that are known already.
    """
    from safetensors import SafetensorError, safe_open

    most = check_file(path, origin, MOST_TENSORS)
    known = dict(sizes or {})
    try:
        with safe_open(path, "numpy") as file:
            names = sorted(file.keys())
            types = expected(names) if callable(expected) else expected or {}
            origin.need(path, expected is None or names == sorted(types), f"found arrays {', '.join(names)}")
            # Names of sizes first, so that one with +1 finds its own.
            for name, (dtype, *dimensions) in sorted(types.items(), key=lambda item: any(map(_is_shifted, item[1][1:]))):
                part = file.get_slice(name)
                shape = [int(one) for one in part.get_shape()]
                fits = KINDS.get(part.get_dtype()) in str(dtype).split("|") and len(shape) == len(dimensions)
                fits = fits and math.prod(filter(None, shape)) <= most
                fits = fits and all(_fits(size, one, known) for size, one in zip(dimensions, shape, strict=True))
                origin.need(path, fits, f"found {name} {part.get_dtype()} {shape}")
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise origin.fault(path, f"no safetensors that can be read ({error})") from error
    for name, array in arrays.items():
        # Of the extremes, so that there is no copy: NaN is both.
        finite = array.dtype.kind != "f" or not array.size or np.isfinite([array.min(), array.max()]).all()
        origin.need(path, finite, f"found numbers in {name} that are not finite")
    for said in metadata.values():
        given = re.search(rf'"{DIGEST}": "([0-9a-f]{{64}})"', said)
        origin.need(path, given is None or given[1] == _digest(arrays), "found other numbers than were written")
    return arrays


def read_metadata(path: Path, key: str, kind: type[Found], origin: Origin) -> Found:
    """Return what the metadata of a safetensors file says under a key: see `read_json`."""
    from safetensors import SafetensorError, safe_open

    check_file(path, origin, MOST_TENSORS)
    try:
        with safe_open(path, "numpy") as file:
            text: str | None = (file.metadata() or {}).get(key)
    except (OSError, SafetensorError) as error:
        raise origin.fault(path, f"no safetensors that can be read ({error})") from error
    if text is None:
        raise origin.fault(path, f"nothing says that it is {origin.what}")
    return parse_json(path, text, kind, origin)


def _is_shifted(size: object) -> bool:
    return isinstance(size, str) and size[-2:] in ("+1", "-1")


def _fits(size: str | int, found: int, known: dict[str, int]) -> bool:
    """Tell whether a size is as expected; a name that is new stands for it from now on."""
    if isinstance(size, int):
        return size == found
    shift = int(size[-2:]) if _is_shifted(size) else 0
    return known.setdefault(size[:-2] if shift else size, found - shift) == found - shift


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}\n".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def as_csr(arrays: Mapping[str, np.ndarray], shape: tuple[int, int], path: Path, origin: Origin) -> csr_matrix:
    """Return the matrix whose data, indices and indptr a file has; raises OwnFileError where these do not fit the shape."""
    # scipy does not look when the last one is negative, and counts in the type they have.
    origin.need(path, are_offsets(arrays["indptr"], len(arrays["indices"])), "found rows without an end")
    try:
        matrix = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise origin.fault(path, error) from error
    return matrix


def list_digests(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the sha256 of the files of a folder and those below it (or of these), by path from there."""
    paths = (
        sorted(path for path in folder.rglob("*") if path.is_file()) if names is None else [folder / one for one in names]
    )
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def check_digests(folder: Path, digests: Mapping[str, str], names: Iterable[str], origin: Origin) -> None:
    """Raise OwnFileError unless files of a folder, by path from there, are those that were written."""
    for name in names:
        path = folder / name
        check_file(path, origin, MOST_TENSORS)
        origin.need(path, sha256_of(path) == digests.get(name), "found another file than was written")

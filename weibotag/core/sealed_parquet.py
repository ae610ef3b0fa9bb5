"""Parquet files that tell when one of their bytes changed; whatever else reads Parquet reads them, too.

Between the last column chunk and the footer lie, little-endian: the CRC-32 of each chunk (by row group, then by column),
their number, the CRC-32 of all this with the footer and the place that the file was written for, and `MARK`. Page checksums
alone leave out the headers of pages and the footer, which say how many rows there are and where.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

MARK = b"wt-seal1"
# What follows the checksums of the chunks: their number, the checksum of the seal, the mark.
END = struct.Struct(f"<II{len(MARK)}s")
# The length of the footer, and PAR1.
LAST_BYTES = 8
TAIL_BYTES = 1 << 16


class DamagedError(Exception):
    """A file is not what was written for its place; the one argument is its path."""


def write_sealed(file: IO[bytes], tables: Iterable[pa.Table], schema: pa.Schema, place: str, **options: Any) -> None:
    """Write tables of a schema to a file that is open for reading and writing, and seal it for `place`.

    `options` are those of pyarrow.parquet.write_table.
    """
    rows = options.pop("row_group_size", None)
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=rows)
    file.flush()
    tail, metadata = _read_tail(file.fileno(), Path(file.name))
    chunks = [_checksum(file.fileno(), *chunk) for group in _find_chunks(metadata) for chunk in group]
    sums = struct.pack(f"<{len(chunks)}I", *chunks)
    file.seek(-len(tail), os.SEEK_END)
    file.write(sums + END.pack(len(chunks), _sum_up(place, sums, tail), MARK) + tail)


class SealedParquet:
    """A file of `write_sealed` open for reading, or one from before there were seals, of which only pages are checked.

    `metadata` is its footer, `sealed` tells whether its bytes can be checked.
    """

    def __init__(self, path: Path, place: str) -> None:
        """Open a file; raises DamagedError where it is no Parquet or its footer is not what was written for `place`."""
        self.path = path
        with _damage(path):
            self._file = path.open("rb", buffering=0)
        try:
            with _damage(path):
                self._sums = _read_sums(self._file.fileno(), path, place)
                tail, self.metadata = _read_tail(self._file.fileno(), path)
                self.schema = pq.read_schema(pa.BufferReader(tail), memory_map=False)
        except BaseException:
            self._file.close()
            raise
        self.sealed = self._sums is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def groups(self) -> range:
        """Return the numbers of the row groups."""
        return range(self.metadata.num_row_groups)

    def check(self, groups: Iterable[int] | None = None, columns: Sequence[str] | None = None) -> None:
        """Raise DamagedError where a byte of these row groups and columns (None: all) changed since it was written."""
        if self._sums is None:
            return
        chunks = _find_chunks(self.metadata)
        wanted = [
            place
            for place in range(self.metadata.num_columns)
            if columns is None or self.metadata.schema.column(place).path.partition(".")[0] in columns
        ]
        with _damage(self.path):
            for group in self.groups if groups is None else groups:
                for place in wanted:
                    expected = self._sums[group * self.metadata.num_columns + place]
                    if _checksum(self._file.fileno(), *chunks[group][place]) != expected:
                        raise DamagedError(self.path)

    def read(self, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of these row groups (None: all); raises DamagedError where they can't be trusted."""
        self.check(groups, columns)
        names = None if columns is None else list(columns)
        # What was checked above need not be checked page by page.
        with (
            _damage(self.path),
            pq.ParquetFile(self._file, metadata=self.metadata, page_checksum_verification=not self.sealed) as file,
        ):
            return file.read_row_groups(list(self.groups if groups is None else groups), columns=names)


class _damage:
    """Turns what reading damaged bytes raises into DamagedError; files that are gone or closed to us stay what they are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, pa.ArrowException | OSError | ValueError | struct.error) or isinstance(error, MemoryError):
            return
        # Arrow's own complaints have no errno.
        if getattr(error, "errno", None) in (None, errno.EIO):
            raise DamagedError(self._path) from error


def _read_tail(descriptor: int, path: Path) -> tuple[bytes, pq.FileMetaData]:
    """Return the bytes of the footer to the end of the file, and what they say."""
    tail = _read_end(descriptor, path, 0)
    return tail, pq.read_metadata(pa.BufferReader(tail))


def _read_end(descriptor: int, path: Path, before: int) -> bytes:
    """Return the last bytes of a file: the footer, and so many before it."""
    size = os.fstat(descriptor).st_size
    end = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
    wanted = int.from_bytes(end[-LAST_BYTES:-4], "little") + LAST_BYTES + before
    if not LAST_BYTES + before < wanted <= size:
        raise DamagedError(path)
    return end[-wanted:] if wanted <= len(end) else os.pread(descriptor, wanted, size - wanted)


def _read_sums(descriptor: int, path: Path, place: str) -> Sequence[int] | None:
    """Return the checksums of the chunks, None where a file has no seal; raises DamagedError where the seal is broken."""
    end = _read_end(descriptor, path, END.size)
    count, seal, mark = END.unpack_from(end)
    if mark != MARK:
        return None
    sums = _read_end(descriptor, path, END.size + 4 * count)[: 4 * count]
    if seal != _sum_up(place, sums, end[END.size :]):
        raise DamagedError(path)
    return struct.unpack(f"<{count}I", sums)


def _sum_up(place: str, sums: bytes, tail: bytes) -> int:
    return zlib.crc32(tail, zlib.crc32(sums, zlib.crc32(place.encode())))


def _find_chunks(metadata: pq.FileMetaData) -> list[list[tuple[int, int]]]:
    """Return the first byte and the length of each column chunk of each row group."""
    chunks: list[list[tuple[int, int]]] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(place) for place in range(metadata.num_columns)]
        chunks.append(
            [
                (min(filter(None, (one.dictionary_page_offset, one.data_page_offset)), default=0), one.total_compressed_size)
                for one in columns
            ]
        )
    return chunks


def _checksum(descriptor: int, start: int, length: int) -> int:
    """Return the CRC-32 of some bytes of a file."""
    total = 0
    while length > 0:
        some = os.pread(descriptor, min(length, 1 << 24), start)
        if not some:
            return -1
        total, start, length = zlib.crc32(some, total), start + len(some), length - len(some)
    return total

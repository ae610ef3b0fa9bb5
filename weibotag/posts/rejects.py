"""Rows that can't be used: where they stood and why; and the ids seen so far."""

import csv
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np

from weibotag.core import schema
from weibotag.core.files import atomic
from weibotag.core.spreadsheet import guard_row

ID_LENGTH = 100


class Rejects(AbstractContextManager["Rejects"]):
    """Counts rejected rows and, given a path, writes them there as they come (schema "rejects", UTF-8 with BOM).

    `first` says where the first one was, and why.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.count, self.path, self.first = 0, path, ""
        self._whole = ExitStack()
        self._writer = None
        if path is not None:
            file = self._whole.enter_context(atomic(path, "w"))
            file.write("\ufeff")
            self._writer = csv.writer(file)
            self._writer.writerow(schema.arrow_schema("rejects").names)

    def append(self, file: str, line: int | None, post_id: str | None, reason: str) -> None:
        """Count one rejected row; `line` is None where a whole file or part is meant."""
        self.count += 1
        self.first = self.first or f"{file}{'' if line is None else f', line {line}'}: {reason}"
        if self._writer:
            self._writer.writerow(guard_row((file, line, post_id and post_id[:ID_LENGTH], reason)))

    def close(self) -> None:
        """Put the file in its place, if there is one: also where nothing else came of the rows."""
        self._whole.close()

    def __exit__(self, *error: object) -> None:
        self.close()


class SeenIds:
    """Remembers ids at eight bytes each, and says which ones come again."""

    def __init__(self) -> None:
        # Sorted hashes; each array is at least twice as long as the next, so there are few and each hash moves seldom.
        self._sorted: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Return a bool per id (object array of str): True where this array or an earlier one held it before."""
        import pandas as pd

        hashes = pd.util.hash_array(ids, categorize=False)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        repeated = np.zeros(len(ids), dtype=bool)
        repeated[1:] = ordered[1:] == ordered[:-1]
        for known in self._sorted:
            place = np.minimum(np.searchsorted(known, ordered), len(known) - 1)
            repeated |= known[place] == ordered
        self._keep(ordered[~repeated])
        answer = np.empty(len(ids), dtype=bool)
        answer[order] = repeated
        return answer

    def _keep(self, hashes: np.ndarray) -> None:
        if not len(hashes):
            return
        self._sorted.append(hashes)
        while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
            last = self._sorted.pop()
            # Stable, because numpy then merges the two sorted runs instead of sorting anew.
            self._sorted[-1] = np.sort(np.concatenate([self._sorted[-1], last]), kind="stable")

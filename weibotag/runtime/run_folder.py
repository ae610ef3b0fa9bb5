"""The run folder: manifest, parts, receipts, rejects and lock of one execution over one input."""

import csv
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Literal, NotRequired, Self, TypeVar

import pyarrow as pa
from filelock import BaseFileLock, FileLock, Timeout
from typing_extensions import TypedDict

from weibotag.core import __version__, schema
from weibotag.core.errors import LockedError, OwnFileError, PartialError, RequestError
from weibotag.core.files import TEMPORARY, atomic, remove_temporary, write_json
from weibotag.core.own_files import Origin, read_json
from weibotag.core.sealed_parquet import DamagedError, SealedParquet, write_sealed
from weibotag.core.spreadsheet import BOM, guard_row
from weibotag.runtime.worker import Receipt

MAKER = "weibotag run"
FORMAT = 2
# Long enough for a look at the state, which holds the lock for a moment, to pass by.
LOCK_SECONDS = 0.2
# Names of kinds and parts.
PART = re.compile(r"[A-Za-z0-9_-]+")
ORIGIN = Origin("a run folder's own file", "remove the folder, or choose another by --run")
PART_FAULT = "part "

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a run has to do: the names of its parts by kind, and how many rows of the input could not be used."""

    parts: Mapping[str, list[str]]
    rejects: int = 0


@dataclass(frozen=True)
class Manifest:
    """manifest.json: whose run it is; `request` is all that it depends on, `plan` None until the input was read."""

    request: Mapping[str, object]
    started: str
    plan: Plan | None = None
    finished: bool = False
    pid: int = field(default_factory=os.getpid)
    version: str = __version__
    format: int = FORMAT
    made_by: str = MAKER


class KeptReceipt(Receipt):
    """A receipt as the run folder keeps it: of which kind, and how many rows it is of."""

    kind: str
    rows: NotRequired[int]


Kept = TypeVar("Kept", bound=KeptReceipt)


class KindState(TypedDict):
    """How many parts or receipts of a kind are done, failed and meant (None: unknown), their rows and seconds of work."""

    done: int
    failed: int
    total: int | None
    rows: int
    seconds: float


class RunState(TypedDict):
    """How a run stands: `state` is none (nothing there yet, and nothing more to say), running, stopped or finished.

    `summary` is what a finished run said at its end.
    """

    folder: str
    state: Literal["none", "running", "stopped", "finished"]
    started: NotRequired[str]
    kinds: NotRequired[dict[str, KindState]]
    rejects: NotRequired[int]
    seconds: NotRequired[float]
    summary: NotRequired[Mapping[str, object] | None]


class Run:
    """One execution in one folder, held by a lock; a part that exists is done.

    A kind of parts is a name of `schema.TABLES`, a kind of receipts any name.
    """

    def __init__(self, folder: Path, request: Mapping[str, object], lock: BaseFileLock) -> None:
        """Take what `open` found; call `open`."""
        self.folder = folder
        self.request = request
        self.plan: Plan | None = None
        self.resumed = False
        self._lock = lock
        self._started = _now()

    @classmethod
    def open(cls, folder: Path, request: Mapping[str, object]) -> Self:
        """Take the folder: go on with an unfinished run of the same request, else start anew in it.

        `request` is what JSON can hold. Raises LockedError while another process holds the folder, and RequestError
        when it can't be made or holds other files than a run's.
        """
        folder = Path(folder)
        request = json.loads(json.dumps(request))
        _check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "lock", thread_local=False)
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise LockedError(_describe_holder(folder)) from error
        except OSError as error:
            raise RequestError(f"{folder}: can't be a run folder ({error.strerror}): choose another by --run") from error
        run = cls(folder, request, lock)
        try:
            run._take_over(_read_manifest(folder))
        except BaseException:
            lock.release()
            raise
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def rejects_path(self) -> Path:
        """Where the rejected rows go."""
        return self.folder / "rejects.csv"

    @property
    def rejects(self) -> int:
        """Return how many rows of the input could not be used, as far as it was read."""
        return 0 if self.plan is None else self.plan.rejects

    def begin(self, plan: Plan) -> None:
        """Fix the parts, once; from here on the run can be resumed."""
        self.plan = plan
        self._write_manifest()

    def path(self, kind: str, part: str) -> Path:
        """Return where a part of a kind (of `schema.TABLES`) lies; absolute: `a:b` is a URI to pyarrow."""
        if kind not in schema.TABLES:
            raise ValueError(f"{kind}: no kind of parts; expected one of {', '.join(schema.TABLES)}")
        return self.folder.absolute() / kind / f"{part}.parquet"

    def done(self, kind: str, part: str) -> bool:
        """Return whether a part was written, by this process or one before."""
        return self.path(kind, part).exists()

    def write(self, kind: str, part: str, table: pa.Table) -> None:
        """Write a part, whole or not at all."""
        path = self.path(kind, part)
        path.parent.mkdir(exist_ok=True)
        with atomic(path, "w+b") as file:
            write_sealed(file, [table], table.schema, _place(path))

    def read(self, kind: str, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a part, or some of its columns, as it was written.

        Raises PartialError where it is damaged or gone; then the next run in this folder starts anew.
        """
        with self._open_part(kind, part) as file:
            table = file.read(columns=columns)
            types = {column.name: column.type for column in schema.TABLES[kind]}
            alike = all(types.get(field.name, field.type) == field.type for field in table.schema)
            # What we write names every post, and has a text of each, if an empty one.
            whole = ("post_id", "text") if kind == "posts" else ("post_id",)
            if not alike or any(name in table.column_names and table[name].null_count for name in whole):
                raise DamagedError(file.path)
            return table

    def count_rows(self, kind: str, part: str) -> int:
        """Return how many rows a part has; raises PartialError as `read` does."""
        with self._open_part(kind, part) as file:
            return int(file.metadata.num_rows)

    def schema(self, kind: str, part: str) -> pa.Schema:
        """Return the columns of a part; raises PartialError as `read` does."""
        with self._open_part(kind, part) as file:
            return file.schema

    def list_parts(self, kind: str) -> list[str]:
        """Return the names of the parts of a kind that were written."""
        return sorted(path.stem for path in (self.folder / kind).glob("*.parquet"))

    def receipt(self, kind: str, part: str, receipt: Mapping[str, object]) -> None:
        """Keep what came of a part, for JSON, in place of an earlier receipt; `kind` and `part` are added to it."""
        path = self.folder / "receipts" / kind / f"{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json({**receipt, "kind": kind, "part": part}, path)

    def receipts(self, shape: type[Kept], kind: str | None = None) -> list[Kept]:
        """Return the receipts of a kind, or all, ordered by kind and part, with what their `shape` knows."""
        return _read_receipts(self.folder, kind, shape)

    def forget(self, kind: str) -> None:
        """Remove the receipts of a kind, whose parts are numbered anew."""
        for path in self.folder.glob(f"receipts/{kind}/*.json"):
            path.unlink()

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary to receipt.json, mark the run finished and remove its parts."""
        write_json(summary, self.folder / "receipt.json")
        self._write_manifest(finished=True)
        self._remove_parts()

    @contextmanager
    def _open_part(self, kind: str, part: str) -> Iterator[SealedParquet]:
        path = self.path(kind, part)
        try:
            with SealedParquet(path, _place(path)) as file:
                yield file
        except (DamagedError, FileNotFoundError) as error:
            self.plan = None
            if self.folder.is_dir():
                self._write_manifest()
            raise PartialError(
                f"{path}: {'is gone' if isinstance(error, FileNotFoundError) else 'damaged'} since it was written: "
                "give the same command again, it starts anew"
            ) from error

    def _take_over(self, manifest: Manifest | None) -> None:
        remove_temporary(self.folder)
        same = manifest is not None and (manifest.format, manifest.request) == (FORMAT, self.request)
        if manifest and same and manifest.plan is not None and not manifest.finished:
            for folder in [*self._part_folders(), *self.folder.glob("receipts/*/")]:
                remove_temporary(folder)
            self.plan, self.resumed, self._started = manifest.plan, True, manifest.started
            self._write_manifest()
            log.info("%s: going on with the run that was stopped", self.folder)
            return
        if manifest:
            why = "finished" if manifest.finished else "stopped early" if same else "another request"
            log.info("%s: starting anew, the run in this folder was %s", self.folder, why)
        # First: whoever is killed while removing leaves a run that can't be taken for one to go on with.
        self._write_manifest()
        self._remove_parts()
        for path in (*self.folder.glob("receipts/*/*.json"), self.rejects_path, self.folder / "receipt.json"):
            path.unlink(missing_ok=True)

    def _write_manifest(self, finished: bool = False) -> None:
        manifest = Manifest(self.request, self._started, self.plan, finished)
        write_json(asdict(manifest), self.folder / "manifest.json")

    def _part_folders(self) -> list[Path]:
        return [folder for kind in schema.TABLES if (folder := self.folder / kind).is_dir()]

    def _remove_parts(self) -> None:
        for folder in self._part_folders():
            remove_temporary(folder)
            for path in folder.glob("*.parquet"):
                path.unlink()
            # A folder in which somebody else put something stays.
            if not any(folder.iterdir()):
                folder.rmdir()


def reject_parts(run: Run, failed: dict[str, str]) -> int:
    """Put the rows of parts that failed into the rejects, in place of those of an earlier try; return their number."""
    kept: list[list[str]] = []
    if run.rejects_path.exists():
        with run.rejects_path.open(encoding="utf-8-sig", newline="") as file:
            kept = [row for row in csv.reader(file) if not row[-1].startswith(PART_FAULT)]
    rows = [
        ["", "", post_id, f"{PART_FAULT}{part} failed: {reason}"]
        for part, reason in failed.items()
        for post_id in run.read("posts", part, ["post_id"])["post_id"].to_pylist()
    ]
    with atomic(run.rejects_path, "w") as file:
        file.write(BOM)
        csv.writer(file).writerows([*kept, *map(guard_row, rows)])
    return len(rows)


def status(folder: Path) -> RunState:
    """Return how a run stands, reading only; raises RequestError when the folder holds something else."""
    folder = Path(folder)
    _check_folder(folder)
    manifest = _read_manifest(folder)
    if manifest is None:
        return {"folder": str(folder), "state": "none"}
    summary = folder / "receipt.json"
    receipts = _read_receipts(folder, None, KeptReceipt)
    planned = {} if manifest.plan is None else manifest.plan.parts
    kinds = dict.fromkeys([*planned, *(receipt["kind"] for receipt in receipts)])
    return {
        "folder": str(folder),
        "state": "finished" if manifest.finished else "running" if _is_held(folder) else "stopped",
        "started": manifest.started,
        "kinds": {kind: _count(folder, kind, planned.get(kind), receipts) for kind in kinds},
        "rejects": _count_rejects(folder),
        "seconds": round(sum(receipt.get("seconds", 0) for receipt in receipts), 1),
        "summary": read_json(summary, dict[str, object], ORIGIN) if manifest.finished and summary.exists() else None,
    }


def _count(folder: Path, kind: str, planned: list[str] | None, receipts: list[KeptReceipt]) -> KindState:
    own = [receipt for receipt in receipts if receipt["kind"] == kind]
    # A part that exists is done; only where there are none, removed or never meant, the receipts decide.
    written = {path.stem for path in folder.glob(f"{kind}/*.parquet")}
    done = written or {receipt["part"] for receipt in own if receipt.get("status") == "ok"}
    return {
        "done": len(done),
        "failed": len({receipt["part"] for receipt in own} - done),
        "total": None if planned is None else len(planned),
        "rows": sum(receipt.get("rows", 0) for receipt in own),
        "seconds": round(sum(receipt.get("seconds", 0) for receipt in own), 1),
    }


def _count_rejects(folder: Path) -> int:
    path = folder / "rejects.csv"
    if not path.exists():
        return 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)


def _check_folder(folder: Path) -> None:
    """Raise RequestError unless the folder is absent, empty or a run's."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RequestError(f"{folder}: found a file, expected the folder of a run, which is OUT.run unless --run named it")
    strangers = [path.name for path in folder.iterdir() if path.name != "lock" and not path.match(TEMPORARY)]
    if strangers and _read_manifest(folder) is None:
        raise RequestError(
            f"{folder}: found {min(strangers)} and no manifest.json of a run, expected a run folder or an empty one: "
            "choose another by --run"
        )


def _read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a run, or None where there is none or it is something else's."""
    try:
        manifest = read_json(folder / "manifest.json", Manifest, ORIGIN)
    except OwnFileError:
        return None
    parts = () if manifest.plan is None else [*manifest.plan.parts, *chain.from_iterable(manifest.plan.parts.values())]
    # Names of files in the folder, and none beside it.
    return manifest if manifest.made_by == MAKER and all(map(PART.fullmatch, parts)) else None


def _read_receipts(folder: Path, kind: str | None, shape: type[Kept]) -> list[Kept]:
    receipts = []
    for path in sorted(folder.glob(f"receipts/{kind or '*'}/*.json")):
        # What came of a part that nobody can say was not done.
        with suppress(OwnFileError):
            receipts.append(read_json(path, shape, ORIGIN))
    return [receipt for receipt in receipts if "status" in receipt]


def _place(path: Path) -> str:
    """Return what a part is: its kind and name, so that no other part is taken for it."""
    return f"{path.parent.name}/{path.name}"


def _describe_holder(folder: Path) -> str:
    manifest = _read_manifest(folder)
    holder = f"process {manifest.pid}" if manifest else "another process"
    return f"{folder}: {holder} is at work in this run folder: wait for it, or choose another folder by --run"


def _is_held(folder: Path) -> bool:
    path = folder / "lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, thread_local=False).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        raise RequestError(f"{path}: can't be opened ({error.strerror}): ask as the user that started the run") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Where posts come from: their files, and which of their rows are asked for.

Nothing heavy is imported for it.
"""

import glob
import hashlib
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from weibotag.core.errors import RequestError
from weibotag.core.file_names import CLIPS, PICTURES
from weibotag.posts.encodings import KINDS, STDIN, find_kind

# A packed file holds some three times its size.
PACKED = 3
TABLE_MARK = "::"
# Columns whose cells hold several items.
LISTS = ("images", "videos", "tags", "keywords")


@dataclass(frozen=True)
class PostsSource:
    """Where posts come from: a file, a folder, a glob or "-" (stdin), how its columns are called, and which rows count.

    `columns` holds (canonical name, name in the file), `adapter` says whose columns they are (see
    `adapters.find_adapter`), and `pictures` is a pattern of the paths of a post's pictures (see
    `adapters.find_pictures`); `splits` holds (canonical name, mark) of cells whose items a mark parts.
    `corrections` is a file of tags (and keywords) by post_id that take the place of those in the posts. `unite` says
    that rows of one post have some of its labels each. `where` is a DuckDB expression, rows where it is not true are left
    out; `limit` stops after that many accepted posts.
    """

    path: str
    columns: tuple[tuple[str, str], ...] = ()
    where: str | None = None
    limit: int | None = None
    adapter: str | None = None
    pictures: str | None = None
    splits: tuple[tuple[str, str], ...] = ()
    corrections: str | None = None
    unite: bool = False

    @property
    def table(self) -> str | None:
        """The table of a workbook or database that is asked for, as in posts.db::notes."""
        return split_table(self.path)[1]


def split_table(path: str) -> tuple[str, str | None]:
    """Return a file and the table in it that is asked for, as in posts.db::notes; None for all that have posts."""
    file, mark, table = path.partition(TABLE_MARK)
    if mark and not Path(path).exists() and find_kind(Path(file)) in ("xlsx", "sqlite"):
        return file, table
    return path, None


def resolve_files(path: str) -> list[Path]:
    """Return the files that `path` means, sorted: one file, all known files below a folder, or those of a glob.

    Where there are none but pictures and clips, it is these: each is a post.
    """
    if path == str(STDIN):
        return [STDIN]
    known = ", ".join(KINDS)
    place = Path(split_table(path)[0])
    if place.is_file():
        if find_kind(place) is None and not is_media(place):
            raise RequestError(
                f"{path}: unknown kind of file; expected one of {known} (.gz of the text ones too), or pictures"
            )
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(path, recursive=True))
    files = sorted(file for file in found if not _is_hidden(file, place) and (find_kind(file) or is_media(file)))
    files = [file for file in files if file.is_file()]
    if files:
        return [file for file in files if find_kind(file)] or files
    if place.is_dir():
        raise RequestError(f"{path}: no posts in this folder; expected files that end in {known}, or pictures")
    raise RequestError(f"{path}: no such file or folder; give a file, a folder, a quoted glob, or - for stdin")


def is_media(path: Path) -> bool:
    """Tell whether a file is a picture or a clip by its name."""
    return bool(PICTURES.search(path.name) or CLIPS.search(path.name))


def _is_hidden(file: Path, folder: Path) -> bool:
    below = file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)
    return any(part.startswith((".", "~$")) for part in below)


def describe_input(source: PostsSource) -> dict[str, object]:
    """Return, as JSON, what tells this input from another: its files with size and time, or a digest of what stdin holds.

    Standard input is read into a file that takes its place, because it can be read only once.
    """
    files: list[list[str | int]]
    if source.path == str(STDIN):
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process reads from it
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        files = [[source.path, hashlib.file_digest(spool, "sha256").hexdigest()]]
        spool.seek(0)
        os.dup2(spool.fileno(), 0)
    else:
        states = [(path.resolve(), path.stat()) for path in resolve_files(source.path)]
        files = [[str(path), state.st_size, state.st_mtime_ns] for path, state in states]
    for more in (source.adapter, source.corrections):
        if more is not None and Path(more).is_file():
            files.append([more, hashlib.sha256(Path(more).read_bytes()).hexdigest()])
    told = {key: value for key, value in asdict(source).items() if key != "path"}
    return {"files": files, **told, **({"table": source.table} if source.table else {})}


def input_bytes(source: PostsSource) -> int:
    """Return how many bytes the posts have, as text; 0 for stdin, of which it is not known."""
    if source.path == str(STDIN):
        return 0
    sizes = {path: path.stat().st_size for path in resolve_files(source.path) if not is_media(path)}
    return sum(size * (PACKED if path.suffix.lower() in (".gz", ".parquet", ".xlsx") else 1) for path, size in sizes.items())

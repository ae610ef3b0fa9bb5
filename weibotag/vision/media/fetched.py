"""The folder of fetched pictures: files by their sha256, and what came of each web address."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from weibotag.core.file_names import name_as_text
from weibotag.core.files import atomic, open_to_append
from weibotag.vision.media.pictures import MediaRoot

# JSON Lines; no suffix by which it would be taken for posts.
LOG = "fetched.log"
FILE = r"^[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]+$"
ADDRESS, USER = re.compile(r"\s*https?://", re.IGNORECASE), re.compile(r"^(\w+://)[^/?#]*@")
Status = Literal["ok", "refused", "failed"]
SUFFIXES = {"JPEG": "jpg", "MATROSKA": "mkv"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a web address: the `file` in the folder, or the `error`.

    `refused` stays so under the same `settings` (see `WebSettings.mark`); what `failed` is tried again by the next run.
    """

    url: str
    file: Annotated[str | None, Field(pattern=FILE)]
    status: Status
    error: str | None
    settings: str


LINE = TypeAdapter(Fetched)


def name_address(url: str) -> str:
    """Return a web address as it is kept and shown: without user, password and fragment."""
    return USER.sub(r"\1", url.strip()).partition("#")[0]


class FetchedFolder:
    """A folder of fetched pictures; what came of an address is a line of `LOG`, of which the last counts.

    `tried` are the addresses that this process asked for, `closed` says why hosts are not asked again by it, and `size` is
    how many bytes came.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root = folder.absolute(), MediaRoot(folder)
        self.tried: set[str] = set()
        self.closed: dict[str, str] = {}
        self.size = 0
        self._known = {one.url: one for one in self._read()}

    def _read(self) -> Iterator[Fetched]:
        log = self.folder / LOG
        line = b"\n"
        for line in log.open("rb") if log.exists() else ():
            try:
                yield LINE.validate_json(line)
            except ValidationError:
                # Of a process that was killed: it is asked for again.
                continue
        if not line.endswith(b"\n"):
            self._write(b"\n")

    def _write(self, line: bytes) -> None:
        with open_to_append(self.folder / LOG) as file:
            file.write(line)

    def find(self, name: str) -> Fetched | None:
        """Return what came of a name in a post; None where it is no address that can be fetched."""
        if not ADDRESS.match(name):
            return None
        url = name_address(name)
        return self._known.get(url) or Fetched(url, None, "failed", "not fetched: time was up", "")

    def locate(self, name: str) -> tuple[str, MediaRoot, str | None] | None:
        """Return, as `find` does, the path of the file (of none: the address), the root that it lies in, and the error."""
        one = self.find(name)
        if one is None:
            return None
        return one.url if one.file is None else name_as_text(self.folder / one.file), self.root, one.error

    def is_settled(self, one: Fetched, settings: str) -> bool:
        """Tell whether nothing is to be gained by asking again."""
        if one.file is not None:
            return (self.folder / one.file).is_file()
        return one.url in self.tried or (one.status == "refused" and one.settings == settings)

    def note(self, one: Fetched) -> None:
        """Keep what came of an address."""
        self._write(LINE.dump_json(one) + b"\n")
        self.tried.add(one.url)
        self._known[one.url] = one

    def keep(self, file: IO[bytes], sha256: str, kind: str) -> str:
        """Keep what was received; return its name from the folder."""
        name = f"{sha256[:2]}/{sha256}.{SUFFIXES.get(kind, kind.lower())}"
        path = self.folder / name
        self.size += file.tell()
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            file.seek(0)
            with atomic(path) as kept:
                shutil.copyfileobj(file, kept)
        return name

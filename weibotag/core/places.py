"""What a command reads and what it writes, compared before any work: no output takes the place of an input or of another."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weibotag.core.errors import RequestError
from weibotag.core.files import refuse_strangers, remove_left
from weibotag.core.option import Input, Output

# What `-` reads and writes; files where the shell was told `< FILE` and `> FILE`.
STDIN, STDOUT = Path("/dev/stdin"), Path("/dev/stdout")


@dataclass(frozen=True)
class Place:
    """A path that a command was given: by which option, and whether it is read or written."""

    option: str
    path: Path
    mark: Input | Output

    def __str__(self) -> str:
        return f"{self.option} {self.path}"


@dataclass(frozen=True)
class Target:
    """A file or folder that will be written for an output; `whole` says that all below it is written, too."""

    place: Place
    path: Path
    whole: bool


def list_places(given: Iterable[tuple[str, Input | Output, object]]) -> list[Place]:
    """Return the places among what options were given, inputs first; texts that are no path are among the inputs."""
    places = []
    for option, mark, value in given:
        stream = STDIN if isinstance(mark, Input) else STDOUT
        if str(value) == "-" and os.path.isfile(stream):
            value = stream
        if not isinstance(value, str | Path) or str(value) in ("", "-"):
            continue
        # A digest may stand behind the name of weights.
        text = str(value).partition("#sha256=")[0]
        # So may a table behind the name of a database.
        if isinstance(mark, Input) and mark.posts and not os.path.exists(text):
            text = text.partition("::")[0]
        if "\0" in text:
            raise RequestError(f"{option} {text!r}: no path has a character NUL")
        places.append(Place(option, Path(text), mark))
    return sorted(places, key=lambda place: isinstance(place.mark, Output))


def check_places(places: Sequence[Place]) -> None:
    """Raise RequestError for an input that can't be read, or an output that can't be written or is anything else's place.

    Files are the same by device and inode, those that are not there by their resolved path. Where several commands follow
    each other, what one writes a later one may read. Else the folders of outputs are made, and what killed runs left beside
    them is removed.
    """
    targets: list[Target] = []
    inputs: list[Place] = []
    for place in places:
        if isinstance(place.mark, Output):
            targets += _list_targets(place, place.mark)
        elif not any(_same(place.path, target.path) for target in targets):
            inputs.append(place)
    for number, target in enumerate(targets):
        for other in targets[:number]:
            if target.place != other.place:
                _compare(target, other)
        _check_target(target)
    for place in inputs:
        _check_input(place, targets)
    for target in targets:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(target.path)


def _list_targets(place: Place, mark: Output) -> Iterator[Target]:
    if place.path == STDOUT:
        yield Target(place, STDOUT, False)
        return
    if mark.files:
        for name in mark.files:
            yield Target(place, place.path / name, False)
    else:
        yield Target(place, place.path, mark.whole or mark.kind is not None)
    for ending in mark.beside:
        yield Target(place, Path(f"{place.path}{ending}"), ending == ".run")


def _compare(target: Target, other: Target) -> None:
    if target.path == other.path and target.whole and other.whole:
        # A run folder that is named as it would be called anyway.
        return
    for one, two in ((target, other), (other, target)):
        if _same(one.path, two.path) or (two.whole and _is_within(one.path, two.path)):
            raise RequestError(f"{one.place}: is where {two.place} is written, too: choose another place")


def _check_target(target: Target) -> None:
    """Raise RequestError where an output can't be written, by kind or by rights."""
    place, path = target.place, target.path
    if path == STDOUT:
        return
    mark = place.mark
    assert isinstance(mark, Output)
    if mark.kind is not None and path == place.path:
        refuse_strangers(path, mark.kind)
    elif not target.whole and path.is_dir() and not mark.folder:
        raise RequestError(f"{path}: is a folder; expected the name of a file")
    if target.whole and path.exists() and not path.is_dir():
        raise RequestError(f"{path}: is a file; expected a folder, or a name that is free: choose another")
    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    if not folder.is_dir():
        raise RequestError(f"{place}: {folder} is a file; expected a folder: choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{place}: nothing can be written in {folder}: ask for the right to, or choose another place")
    if (target.whole or mark.folder) and path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise RequestError(f"{place}: nothing can be written there: ask for the right to, or choose another place")


def _check_input(place: Place, targets: Sequence[Target]) -> None:
    """Raise RequestError where an input can't be read, or an output would take its place or be read with it."""
    mark = place.mark
    assert isinstance(mark, Input)
    found = [place.path]
    if mark.posts and not place.path.exists():
        found = [Path(path) for path in glob.glob(str(place.path), recursive=True)]
        for target in targets:
            if Path(os.path.abspath(target.path)).match(os.path.abspath(place.path)):
                raise RequestError(f"{target.place}: lies among {place}, where it would be read: choose another place")
    for path in filter(Path.exists, found):
        for file in _list_files(path, mark):
            readable = os.R_OK | (os.X_OK if file.is_dir() else 0)
            if file != STDIN and not os.access(file, readable):
                raise RequestError(f"{place}: {file} can't be read by this user: ask for the right to read it")
        for target in targets:
            _refuse_overwriting(place, path, mark, target)


def _list_files(path: Path, mark: Input) -> Iterator[Path]:
    """Give a file, or a folder and what of all below it is read whatever it holds."""
    yield path
    if not (mark.posts or mark.outside):
        yield from (Path(folder, name) for folder, _, names in os.walk(path) for name in names)


def _refuse_overwriting(place: Place, path: Path, mark: Input, target: Target) -> None:
    if _same(target.path, path) or (target.whole and _is_within(path, target.path)):
        raise RequestError(f"{target.place}: is also read, as {place}: choose another place")
    if mark.outside or not path.is_dir():
        return
    if _is_within(target.path, path):
        raise RequestError(f"{target.place}: lies in {place}, which is read: choose another place")
    if not target.path.exists():
        return
    for folder, _, names in os.walk(path):
        for file in (Path(folder, name) for name in names):
            if file.is_symlink() and _same(file, target.path):
                raise RequestError(f"{target.place}: is also read, as {file}: choose another place")


def _key(path: Path) -> tuple[int, int] | str:
    """Return what is the same for two names of one file or folder."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _same(one: Path, two: Path) -> bool:
    return _key(one) == _key(two)


def _is_within(path: Path, folder: Path) -> bool:
    """Tell whether a path lies below a folder, or would."""
    own = _key(folder)
    return any(_key(parent) == own for parent in Path(os.path.realpath(path)).parents)

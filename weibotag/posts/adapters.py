"""How tools that collect posts call what is read here: adapters.toml, and files of users in its form."""

import glob
import re
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, NotRequired

from annotated_types import MinLen
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from weibotag.core.errors import RequestError
from weibotag.core.file_names import PICTURES
from weibotag.core.schema import arrow_schema

# Columns of a posts table that a file may have.
GIVEN = tuple(name for name in arrow_schema("posts").names if name != "folder")
OWN = Path(__file__).with_suffix(".toml")
NONE = "none"
CONTENT = ("text", "images", "videos")
# The one that knows columns by usual names: taken where no other is.
USUAL = "usual"
MARK = "{post_id}"


def check_ours(name: str) -> str:
    """Return the name of one of our columns; raises ValueError for any other."""
    if name not in GIVEN:
        raise ValueError(f"expected one of {', '.join(GIVEN)}")
    return name


@with_config(ConfigDict(extra="forbid"))
class Adapter(TypedDict):
    """Columns in `has` tell whose header it is; `columns` are names in the file by ours: see adapters.toml.

    `splits` says what parts the items of a column. Files of one that is `left_out` are no posts.
    """

    has: Annotated[list[str], MinLen(1)]
    columns: dict[Annotated[str, AfterValidator(check_ours)], Annotated[list[str], MinLen(1)]]
    pictures: NotRequired[str | list[str]]
    splits: NotRequired[dict[Annotated[str, AfterValidator(check_ours)], Annotated[str, MinLen(1)]]]
    left_out: NotRequired[bool]


@cache
def read_adapters(path: Path = OWN) -> Mapping[str, Adapter]:
    """Return the adapters of a TOML file by name; raises RequestError for anything else."""
    try:
        return TypeAdapter(dict[str, Adapter]).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RequestError(f"{path}: [{place}] {first['msg']}; see docs/columns.md") from error
        raise RequestError(f"{path}: no TOML file of adapters ({str(error).splitlines()[0]})") from error


def find_adapter(names: Collection[str], asked: str | None) -> tuple[str, Adapter] | None:
    """Return the adapter that was asked for, a name or a TOML file, else the first of ours whose columns are all in `names`.

    None where there is none, or `asked` is "none". Raises RequestError for an unknown one, or one that does not fit.
    """
    if asked == NONE:
        return None
    known = read_adapters(Path(asked)) if asked is not None and asked.endswith(".toml") else read_adapters()
    if asked is not None and asked in known:
        known = {asked: known[asked]}
    elif asked is not None and not asked.endswith(".toml"):
        raise RequestError(f"--adapter {asked}: expected none, a file of adapters (.toml), or one of {', '.join(known)}")
    found = next(((name, one) for name, one in known.items() if _fits(name, one, names)), None)
    if found is None and asked is not None:
        raise RequestError(f"--adapter {asked}: its columns are not those that there are: {', '.join(names)}")
    return found


def _fits(name: str, adapter: Adapter, names: Collection[str]) -> bool:
    if name != USUAL:
        return set(adapter["has"]) <= set(names)
    columns = {ours for ours, theirs in adapter["columns"].items() if ours in names or not set(theirs).isdisjoint(names)}
    return "post_id" in columns and not columns.isdisjoint(CONTENT)


def list_names() -> list[str]:
    """Return the names of columns that our adapters know."""
    return [name for one in read_adapters().values() for names in one["columns"].values() for name in names]


def find_pictures(folder: Path, patterns: Iterable[str]) -> dict[str, list[str]]:
    """Return paths of pictures, from a folder on and in the order of their names, by the post_id in each.

    Each of the patterns is sought. In one `*` is anything within a name, the shortest that fits, and {post_id} letters and
    digits. Raises RequestError for a pattern without it.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for pattern in patterns:
        if pattern.count(MARK) != 1:
            raise RequestError(f"--pictures {pattern!r}: expected {MARK} in it once, as in 'img/*/*_{MARK}*.jpg'")
        wanted = re.escape(pattern).replace(re.escape(MARK), r"([^\W_]+)").replace(r"\*", "[^/]*?")
        place = glob.escape(str(folder))
        # Digits count as numbers: _2 is before _10.
        for path in sorted(glob.glob(f"{place}/{re.sub(r'[*]+', '*', pattern.replace(MARK, '*'))}"), key=_by_numbers):
            name = path[len(str(folder)) + 1 :]
            fits = re.fullmatch(wanted, name)
            if fits and PICTURES.search(name):
                found[fits[1]].append(name)
    return dict(found)


def _by_numbers(path: str) -> list[tuple[int, str]]:
    return [(len(part), part) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path)]

"""How a field of a request is given on the command line: metadata of `typing.Annotated`, read by `cli/command.py`.

A field that is a path says what it is for: Input or Output, checked by `core/places.py` before any work.
"""

from dataclasses import dataclass
from typing import Annotated

from weibotag.core.files import FolderKind

# Parts of a command's help, in order; the first has no name.
POSTS, SEARCH, NETWORK, PICTURES, RUN = "Posts", "Search", "Network", "Pictures", "Run"
PANELS = (None, POSTS, SEARCH, NETWORK, PICTURES, RUN)


@dataclass(frozen=True)
class Argument:
    """A field that is given by its place among the arguments; `metavar` is what help calls it, else the field's name."""

    help: str
    metavar: str | None = None
    place: int = 1


@dataclass(frozen=True)
class Option:
    """A field that is given by a flag: `--field-name` unless `flag` is another; `short` is a flag of one letter.

    `panel` is the part of the help that it stands in (None: the first), `shown` what is shown as default in place of the
    field's own. A flag of a dict is given as NAME=VALUE, once for each.
    """

    help: str
    flag: str | None = None
    short: str | None = None
    metavar: str | None = None
    panel: str | None = None
    shown: str | None = None


@dataclass(frozen=True)
class Input:
    """What is read: a file, or a folder and all below it; a text that is no path is none.

    `posts`: a folder of which only some files are read, or a glob. `outside`: a folder in which outputs may lie.
    """

    posts: bool = False
    outside: bool = False


@dataclass(frozen=True)
class Output:
    """What is written: a file, and others with `beside` at the end of its name, OUT.run being a folder.

    A folder has either `files`, which are written in it beside what others put there; or a `kind`, and is replaced as a
    whole; or is `whole`, and takes care of what is in it. `folder`: one that others may write to as well.
    """

    beside: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    kind: FolderKind | None = None
    whole: bool = False
    folder: bool = False


Quiet = Annotated[bool, Option("Say nothing but errors.", short="-q", panel=RUN)]

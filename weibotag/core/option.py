"""How a field of a request is given on the command line: metadata of `typing.Annotated`, read by `cli/command.py`."""

from dataclasses import dataclass
from typing import Annotated

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


Quiet = Annotated[bool, Option("Say nothing but errors.", short="-q", panel=RUN)]

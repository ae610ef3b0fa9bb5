"""Commands made from functions: their parameters and the fields of their requests are the options."""

import inspect
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, make_dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from weibotag.cli.answer import Answer, show
from weibotag.core.errors import RequestError
from weibotag.core.option import PANELS, RUN, Argument, Input, Option, Output, Quiet
from weibotag.core.places import Place, check_places, list_places

Json = Annotated[bool, Option("Print JSON to stdout.", flag="--json", panel=RUN)]
# What help calls a value; short, so that the text beside it has room.
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
# Name, type with its metadata, default; `inspect.Parameter.empty` where it must be given.
Parameter = tuple[str, Any, Any]


class Command(TyperCommand):
    """A command that shows what `answer` says; `answer` has an annotation with Option or Argument for each parameter.

    A parameter that is a request (a pydantic model) stands for the fields of the model. The docstring is the help.
    """

    answer: Callable[..., Answer]


def command(name: str) -> Callable[[Callable[..., Answer]], Command]:
    """Return what makes the command `name` of a function; typer reads its parameters off a dataclass made from them."""

    def make(answer: Callable[..., Answer]) -> Command:
        shared = {"quiet": ("quiet", Quiet, False), "as_json": ("as_json", Json, False)}
        parameters = shared | {one[0]: one for one in _list_parameters(answer)}
        fields = [_make_field(*one) for one in sorted(parameters.values(), key=_rank)]
        app = typer.Typer(add_completion=False)
        app.command(name, cls=Command, help=inspect.getdoc(answer))(make_dataclass(name, fields, kw_only=True))
        made = typer.main.get_command(app)
        assert isinstance(made, Command)
        made.answer, made.callback = _guard(answer), lambda **given: _run(made, given)
        return made

    return make


def _guard(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return a function that looks at its inputs and outputs before it does anything."""

    @wraps(answer)
    def guarded(*words: Any, **named: Any) -> Answer:
        check_given(find_places(answer, *words, **named))
        return answer(*words, **named)

    return guarded


def find_places(answer: Callable[..., Answer], *words: Any, **named: Any) -> list[Place]:
    """Return what a command reads and writes when it is called so."""
    bound = inspect.signature(answer).bind(*words, **named)
    bound.apply_defaults()
    values = dict(bound.arguments)
    for request in bound.arguments.values():
        values |= dict(request) if hasattr(request, "model_fields_set") else {}
    marked = ((name, annotation, _find(annotation, Input | Output)) for name, annotation, _ in _list_parameters(answer))
    given = [(_name_option(name, annotation), mark, values[name]) for name, annotation, mark in marked if mark is not None]
    return list_places([*given, *_list_named(values.get("pipeline"))])


def _list_named(pipeline: Any) -> Iterator[tuple[str, Input, Path]]:
    """Give the files that a pipeline names: a gallery, weights, tag trees; nothing of a file that can't be read."""
    folder = Path()
    if isinstance(pipeline, str | Path):
        folder = Path(pipeline).resolve().parent
        try:
            tables = tomllib.loads(Path(pipeline).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return
    else:
        tables = {} if pipeline is None else {"gallery": pipeline.gallery, **pipeline.stage_settings}
    named = [("gallery", tables.get("gallery"))]
    # The tables of commands say what these read and write themselves.
    stages = (table for name, table in tables.items() if isinstance(table, dict) and name not in ("train", "plan", "tag"))
    named += (item for table in stages for item in table.items())
    for key, value in named:
        if isinstance(value, str | Path):
            path = folder / str(value).partition("#sha256=")[0]
            if os.path.isfile(path) or (key == "model" and os.path.isdir(path)):
                yield f"{key} of the pipeline", Input(), path


def check_given(places: Sequence[Place]) -> None:
    """Check places; no output takes that of a picture or clip either, which posts may name. Raises RequestError."""
    from weibotag.vision.media.formats import HEAD_BYTES, is_media

    check_places(places)
    for place in places:
        if not isinstance(place.mark, Output):
            continue
        for path in (place.path / name for name in place.mark.files or ("",)):
            if path.is_file() and os.access(path, os.R_OK):
                with path.open("rb") as file:
                    head = file.read(HEAD_BYTES)
                # Plots of before are replaced.
                if is_media(head) and b"Matplotlib" not in head:
                    raise RequestError(f"{place.option} {path}: is a picture or a clip: choose another place")


def _run(made: Command, given: dict[str, Any]) -> None:
    """Answer what was typed, and show the answer."""
    quiet, as_json = given["quiet"], given["as_json"]
    if as_json and str(given.get("out")) == "-":
        raise RequestError("--out - and --json both write to stdout: give --out a file, or leave --json out")
    words: dict[str, object] = {}
    for name, kind in get_type_hints(made.answer, include_extras=True).items():
        if hasattr(kind, "model_fields"):
            words[name] = _build(kind, {key: given[key] for key in kind.model_fields}, made)
        elif name in given:
            words[name] = given[name]
    show(made.answer(**words), as_json, quiet)


def _build(model: Any, given: dict[str, object], made: Command) -> Any:
    """Return a request of what was typed; raises RequestError, naming the flag, for a value that does not fit."""
    from pydantic import ValidationError

    try:
        return model(**{name: value for name, value in given.items() if value not in (None, (), [])})
    except ValidationError as error:
        fault = error.errors()[0]
        option = next(parameter for parameter in made.params if parameter.name == fault["loc"][0])
        raise RequestError(f"{option.opts[0]} {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}") from error


def _list_parameters(answer: Callable[..., Answer]) -> Iterator[Parameter]:
    """Give the parameters of a function, those of its requests among them."""
    kinds = get_type_hints(answer, include_extras=True)
    for name, parameter in inspect.signature(answer).parameters.items():
        if not hasattr(kinds[name], "model_fields"):
            yield name, kinds[name], parameter.default
            continue
        for key, info in kinds[name].model_fields.items():
            default = inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
            yield key, Annotated[info.annotation, *info.metadata], default


def _find(annotation: Any, kind: Any) -> Any:
    """Return the metadata of a kind, None where there is none."""
    return next((one for one in annotation.__metadata__ if isinstance(one, kind)), None)


def _name_option(name: str, annotation: Any) -> str:
    option = _find(annotation, Argument | Option)
    if isinstance(option, Argument):
        return option.metavar or name.upper()
    return option.flag or f"--{name.replace('_', '-')}"


def _rank(parameter: Parameter) -> tuple[int, int]:
    """Return where a parameter stands: arguments first, then options by their panels."""
    option = _find(parameter[1], Argument | Option)
    return (0, option.place) if isinstance(option, Argument) else (1, PANELS.index(option.panel))


def _make_field(name: str, annotation: Any, default: Any) -> tuple[str, Any, Any]:
    """Return a parameter as a field of a dataclass, with typer's metadata in place of ours."""
    from annotated_types import Ge, Le
    from pydantic import BeforeValidator

    option, least, most = (_find(annotation, kind) for kind in (Argument | Option, Ge, Le))
    kind = _strip(annotation)
    if get_origin(kind) in (dict, list, tuple):
        kind = list[str]
    # What a validator reads is typed as text.
    elif _find(annotation, BeforeValidator) or not (get_origin(kind) is Literal or kind in (bool, int, float, Path)):
        kind = str
    settings: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
    settings |= {"min": least and least.ge, "max": most and most.le}
    if isinstance(option, Argument):
        typed: Any = typer.Argument(**settings)
    else:
        settings["metavar"] = option.metavar or METAVARS.get(kind)
        flags = [_name_option(name, annotation), *([option.short] if option.short else [])]
        typed = typer.Option(*flags, **settings, show_default=option.shown or True, rich_help_panel=option.panel)
    if default is inspect.Parameter.empty:
        return name, Annotated[kind, typed], field()
    default = None if isinstance(default, dict | list | tuple) else default
    return name, Annotated[kind if default is not None else kind | None, typed], field(default=default)


def _strip(annotation: Any) -> Any:
    """Return a type without None and without metadata; of several the first."""
    while get_origin(annotation) not in (dict, list, tuple, Literal) and get_args(annotation):
        annotation = next(one for one in get_args(annotation) if one is not NoneType)
    return annotation


class Later(TyperCommand):
    """A command or a group that is imported (`module:attribute`) when it is called; until then its summary is known."""

    def __init__(self, name: str, place: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self.place = place

    def load(self) -> Any:
        """Return the command itself."""
        module, _, attribute = self.place.partition(":")
        return getattr(import_module(module), attribute)

    def make_context(self, *words: Any, **options: Any) -> Any:
        """Return the context of the command itself, which runs it."""
        return self.load().make_context(*words, **options)


class Group(TyperGroup):
    """Commands under one name. With a `first`, words that name none of them are for that one."""

    def __init__(self, name: str, help: str, *commands: Any, first: str | None = None) -> None:
        super().__init__(name=name, help=help, commands=list(commands), no_args_is_help=True)
        self.first = first

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the first command before arguments that name none."""
        if self.first is not None and (not args or args[0] not in self.commands):
            args = [self.first, *args]
        return super().parse_args(ctx, args)

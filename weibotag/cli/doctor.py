"""`weibotag doctor`: what is installed, and what is missing."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weibotag.cli.answer import Answer, make_table, yes_no
from weibotag.cli.command import command

if TYPE_CHECKING:
    from rich.table import Table

    from weibotag.workflows.doctor import Machine


@command("doctor")
def doctor() -> Answer:
    """Say what is installed and what is missing; exit 2 when the pipeline lite can't run.

    Example: weibotag doctor
    """
    from weibotag.workflows.doctor import examine

    machine = examine()
    line = f"{machine.cores} cores, Python {machine.python}, weibotag {machine.weibotag}"
    shown: list[Any] = [*draw(machine), line]
    if machine.lite.fault is not None:
        return Answer(asdict(machine), shown=shown, fault=f"the pipeline lite can't run: {machine.lite.fault}", code=2)
    took = f"{machine.lite.seconds:.1f} s, loading included"
    return Answer(asdict(machine), shown=[*shown, f"the pipeline lite runs: it looked at a picture in {took}"])


def draw(machine: "Machine") -> list["Table"]:
    """Return the tables that show what `examine` found."""
    libraries = [(one.name, one.wants, one.found or "missing", one.fix) for one in machine.libraries]
    stages = [(one.name, ", ".join(one.kinds), f"{one.nominal_ms:g} ms") for one in machine.stages]
    backends = [(one.stage, one.name, one.licence, yes_no(not one.fault), one.fault) for one in machine.backends]
    weights = [(one.backend, one.path, yes_no(one.ready)) for one in machine.weights]
    extras = [(one.name, ", ".join(one.libraries), yes_no(not one.missing), one.fix) for one in machine.extras]
    folders = [
        (f"{one.stage}-{one.fingerprint}", f"{one.rows:,}", f"{one.parts:,}", f"{one.bytes / 1e6:,.1f} MB")
        for one in machine.store.folders
    ]
    held = machine.store.fault or f"{sum(one.bytes for one in machine.store.folders) / 1e6:,.1f} MB"
    return [
        make_table("Libraries", ("library", "wants", "found", "what to do"), libraries),
        make_table("Stages", ("stage", "kinds of wordings", "a picture"), stages),
        make_table("Backends", ("stage", "backend", "licence", "ready", "what to do"), backends),
        make_table("Weights", ("backend", "file", "there"), weights),
        make_table("Extras", ("extra", "libraries", "installed", "what to do"), extras),
        make_table(f"Store {machine.store.folder}: {held}", ("stage", "rows", "parts", "size"), folders),
    ]

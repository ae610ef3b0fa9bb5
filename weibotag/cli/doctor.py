"""`weibotag doctor`: what is installed, and what is missing."""

from typing import TYPE_CHECKING, Any

from weibotag.cli.answer import Answer, make_table, yes_no
from weibotag.cli.command import command

if TYPE_CHECKING:
    from rich.table import Table


@command("doctor")
def doctor() -> Answer:
    """Say what is installed and what is missing; exit 2 when the pipeline lite can't run.

    Example: weibotag doctor
    """
    from weibotag.workflows.doctor import examine

    state = examine()
    fault, seconds = state["lite"]["fault"], state["lite"]["seconds"]
    shown: list[Any] = [*draw(state), f"{state['cores']} cores, Python {state['python']}, weibotag {state['weibotag']}"]
    if fault is not None:
        return Answer(state, shown=shown, fault=f"the pipeline lite can't run: {fault}", code=2)
    shown.append(f"the pipeline lite runs: it looked at a picture in {seconds:.1f} s, loading included")
    return Answer(state, shown=shown)


def draw(state: dict[str, Any]) -> list["Table"]:
    """Return the tables that show what `examine` found."""
    libraries = [(row["name"], row["wants"], row["found"] or "missing", row["fix"]) for row in state["libraries"]]
    stages = [(row["name"], ", ".join(row["kinds"]), f"{row['nominal_ms']:g} ms") for row in state["stages"]]
    stages = [(row["name"], ", ".join(row["kinds"]), f"{row['nominal_ms']:g} ms") for row in state["stages"]]
    backends = [
        (row["stage"], row["name"], row["licence"], yes_no(not row["fault"]), row["fault"]) for row in state["backends"]
    ]
    weights = [(row["backend"], row["path"], yes_no(row["ready"])) for row in state["weights"]]
    extras = [(row["name"], ", ".join(row["libraries"]), yes_no(not row["missing"]), row["fix"]) for row in state["extras"]]
    folders = [
        (f"{row['stage']}-{row['fingerprint']}", f"{row['rows']:,}", f"{row['parts']:,}", f"{row['bytes'] / 1e6:,.1f} MB")
        for row in state["store"]["folders"]
    ]
    size = sum(row["bytes"] for row in state["store"]["folders"])
    held = state["store"]["fault"] or f"{size / 1e6:,.1f} MB"
    return [
        make_table("Libraries", ("library", "wants", "found", "what to do"), libraries),
        make_table("Stages", ("stage", "kinds of wordings", "a picture"), stages),
        make_table("Stages", ("stage", "kinds of wordings", "a picture"), stages),
        make_table("Backends", ("stage", "backend", "licence", "ready", "what to do"), backends),
        make_table("Weights", ("backend", "file", "there"), weights),
        make_table("Extras", ("extra", "libraries", "installed", "what to do"), extras),
        make_table(f"Store {state['store']['folder']}: {held}", ("stage", "rows", "parts", "size"), folders),
    ]

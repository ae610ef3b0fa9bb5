"""The report of an evaluation as tables for people; `--json` has the same figures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def render(report: dict[str, Any], tags_shown: int = 20) -> "Group":
    """Return the report as rich tables; of the tags, the `tags_shown` with gold posts that have the lowest f1."""
    from rich.console import Group
    from rich.padding import Padding

    numbers = {
        name: {"all posts": value} for name, value in report.items() if name != "keywords" and not isinstance(value, dict)
    }
    worst = sorted(
        ((tag_id, scores) for tag_id, scores in report["per_tag"].items() if scores["gold"]),
        key=lambda item: (item[1]["f1"], -item[1]["gold"]),
    )
    groups = {
        "": numbers,
        "first": report["at_k"],
        "level": report["per_level"],
        "frequency": report["per_frequency"],
        "route": report["per_route"],
        "post has": report["per_modalities"],
        f"{len(worst[:tags_shown])} of {len(worst)} tags, lowest f1 first": dict(worst[:tags_shown]),
        "keywords": {"all posts with gold keywords": report["keywords"]} if report["keywords"] else {},
    }
    drawn = [_draw(title, rows) for title, rows in groups.items() if rows]
    return Group(*(Padding(table, (0, 0, 1, 0)) for table in drawn))


def _draw(title: str, rows: dict[str, dict[str, Any]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right", no_wrap=True)
    for key, values in rows.items():
        table.add_row(escape(key), *map(_write_number, values.values()))
    return table


def _write_number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"

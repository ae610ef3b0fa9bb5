"""What an evaluation reports: figures as `--json` prints them, and the same as tables for people."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from weibotag.scoring.metrics import Agreement

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


class TagAgreement(Agreement):
    """How well a tag is found, with the posts that have it in gold, and where it was predicted."""

    gold: int
    predicted: int


class TagsAgreement(Agreement):
    """How well some tags are found together: how many they are, and their gold and predicted (post, tag) pairs."""

    tags: int
    gold: int
    predicted: int


class CutFigures(TypedDict):
    """What the k best scored tags of posts are worth.

    `precision`: see `metrics.precision_at`; `propensity_scored` (PSP@k): what the right ones of them are worth, one over
    their propensity each, as a share of what k tags could be worth; `head`, `torso`, `tail`: the precision among tags so
    frequent alone, over the posts with a gold one. A file of tags has none below its threshold; those count as wrong.
    """

    precision: float
    propensity_scored: float
    head: float
    torso: float
    tail: float


class RouteFigures(TypedDict):
    """Posts, and their micro-F1."""

    posts: int
    micro_f1: float


class ModalityFigures(RouteFigures):
    """Figures of the posts that have the same: see `TagSummary`."""

    leaf_p_at_1: float
    ece: float | None


class KeywordFigures(Agreement):
    """How well keywords are found in posts with gold ones: compared as sets, case- and width-folded, over all posts.

    `recall_at_10` is the share of gold keywords among the 10 best scored predicted ones of their post.
    """

    posts: int
    recall_at_10: float


class TagSummary(TypedDict):
    """Figures over all posts with gold tags, null where only keywords are gold.

    `micro_f1`, `micro_precision`, `micro_recall`: over all pairs of all levels, see `metrics.agreement`; `macro_f1`,
    `leaf_p_at_1`, `p_at_5`, `hierarchical_f1`: see the functions of `metrics`; `ece`: expected calibration error of the
    predicted (post, tag) pairs that have a score, null for none.
    """

    micro_f1: float | None
    micro_precision: float | None
    micro_recall: float | None
    macro_f1: float | None
    leaf_p_at_1: float | None
    p_at_5: float | None
    hierarchical_f1: float | None
    ece: float | None


class TagReport(TagSummary):
    """Figures of tags, and of them by k ("1", "3", "5"), by kind of tag and of post.

    - `ece_pairs`: the pairs of `ece`.
    - `per_level`: by level ("1" is the first); `per_frequency`: head, torso, tail (see `metrics.divide_by_frequency`).
    - `per_tag`: by tag, those with a gold or predicted post.
    - `per_route`: by route, over the predicted posts ("unknown" where the route is empty).
    - `per_modalities`: by what posts have (each post is one of `report.MODALITIES`; short is a text of at most ten
      characters, blank is none, clips are pictures).
    """

    at_k: dict[str, CutFigures]
    ece_pairs: int
    per_level: dict[str, TagsAgreement]
    per_frequency: dict[str, TagsAgreement]
    per_tag: dict[str, TagAgreement]
    per_route: dict[str, RouteFigures]
    per_modalities: dict[str, ModalityFigures]


class Report(TagReport):
    """What predictions are worth, as `evaluate --json` prints it.

    - `posts`: posts with gold tags (an empty list is "no tag"; null is not labelled); all figures of tags are over these.
    - `keywords`: null when no post has gold keywords.
    - `missing`: how many of the posts were not predicted; they count as predicted empty.
    - `unlabelled`: posts left out because nothing is known of their tags: gold null, or predicted without a gold row.
    - `unknown_tags`: gold (post, tag) pairs left out because the taxonomy does not have the tag.
    """

    posts: int
    keywords: KeywordFigures | None
    missing: int
    unlabelled: int
    unknown_tags: int


def render(report: Report, tags_shown: int = 20) -> "Group":
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
    groups: dict[str, Mapping[str, Mapping[str, object]]] = {
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


def _draw(title: str, rows: Mapping[str, Mapping[str, object]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right", no_wrap=True)
    for key, values in rows.items():
        table.add_row(escape(key), *map(_write_number, values.values()))
    return table


def _write_number(value: object) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"

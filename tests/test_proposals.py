from pathlib import Path

import pytest
from graded_posts import tree

from weibotag.core.errors import RequestError
from weibotag.curation.tags.proposals import PROPOSALS, Proposal, Relabelling, read_proposals, restructure
from weibotag.taxonomy.tree import Tag, Taxonomy

TREE = tree("美妆", "美妆/口红", "美妆/唇彩", "美妆/眼影", "体育", "体育/足球", "体育/网球", "体育/棋")
# One line per proposal, as a reviewer sends them back.
REVIEW = "accept,action,tag,other,post_id,from,to,confidence,reason,evidence\n"


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, ["b"]),
        ("all", ["a", "b", "d", "e"]),
        ("recommended", ["a", "b", "e"]),
        ("merge", ["a", "b"]),
        (">=0.6", ["a", "b", "e"]),
        ("move, >=0.4", ["b", "d"]),
    ],
)
def test_what_is_accepted(tmp_path: Path, accept: str | None, taken: list[str]) -> None:
    lines = ["merge,a,x,,,,0.95", "merge,b,x,,,,0.1", "merge,c,x,,,,0.99", "move,d,x,,,,0.5", "relabel,e,,p1,e,,0.6"]
    marks = ["", "是", "no", "", ""]
    rows = "".join(f"{mark},{line},why,\n" for mark, line in zip(marks, lines, strict=True))
    # A spreadsheet saves Chinese in its own encoding.
    (tmp_path / PROPOSALS).write_text(REVIEW + rows, encoding="gb18030")
    assert [one.tag for one in read_proposals(tmp_path / PROPOSALS, accept)] == taken


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("perhaps,merge,a,b,,,,0.9,,", "line 2: accept is 'perhaps'"),
        ("yes,delete,a,,,,,0.9,,", "line 2: action is 'delete'"),
        ("yes,merge,a,,,,,0.9,,", "line 2: merge needs other"),
        ("yes,relabel,a,,,a,,0.9,,", "line 2: relabel needs post_id"),
        ("yes,merge,a,b,,,,much,,", "line 2: confidence is 'much'"),
        ("yes,merge", "line 2: 2 fields; expected 10"),
    ],
)
def test_a_review_that_can_not_be_read_names_its_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / PROPOSALS).write_text(REVIEW + line + "\n", encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        read_proposals(tmp_path / PROPOSALS, None)


def test_mergers_hand_over_names_keywords_children_and_follow_each_other() -> None:
    tags = [
        Tag("a", None, "甲", ("甲一",), ("词",), 2),
        Tag("a/x", "a", "小", (), (), 3),
        Tag("b", None, "乙", (), (), 4),
        Tag("c", None, "丙", (), (), 5),
    ]
    proposals = [Proposal("alias", "a", "b"), Proposal("merge", "b", "c"), Proposal("split", "c", added=("丁",))]
    new, target = restructure(Taxonomy(tags), proposals, {"c": "c2"})
    assert new.ids == ("a/x", "c", "c2")
    assert target == {"a": "c", "b": "c", "c": "c", "a/x": "a/x"}
    assert new.tags[0].parent_id == "c"
    assert new.tags[1].aliases == ("甲", "甲一")
    assert new.tags[1].keywords == ("词",)
    assert new.tags[2].name == "丁"


@pytest.mark.parametrize(
    ("proposals", "said"),
    [
        (
            [Proposal("merge", "体育/足球", "体育/网球", line=2), Proposal("merge", "体育/网球", "体育/足球", line=3)],
            "circle",
        ),
        ([Proposal("merge", "体育/足球", "体育/网球"), Proposal("merge", "体育/足球", "体育/棋", line=7)], "line 7.*too"),
        ([Proposal("move", "体育", "体育/足球")], "no tree"),
        ([Proposal("move", "体育", "象棋", line=4)], "line 4: the taxonomy has no tag 象棋"),
    ],
)
def test_what_makes_no_tree_is_refused(proposals: list[Proposal], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        restructure(TREE, proposals, {})


def test_a_parent_can_be_merged_into_its_child() -> None:
    new, _ = restructure(TREE, [Proposal("merge", "体育", "体育/足球")], {})
    assert {tag.id: tag.parent_id for tag in new.tags if "体育" in tag.id} == {
        "体育/足球": None,
        "体育/网球": "体育/足球",
        "体育/棋": "体育/足球",
    }


def test_tags_of_a_post_lose_gain_split_and_merge_in_one_go() -> None:
    one = Proposal("relabel", "a", post_id="p", removed=("a",), added=("b",))
    changes = Relabelling({"b": "c"}, {("d", "p"): "d2"}, {"p": [one]})
    assert changes.change("p", ["a", "c", "d", "unknown"]) == ["c", "d2", "unknown"]
    assert changes.change("q", ["a", "d", "b"]) == ["a", "d", "c"]

"""Words found in text: as a search without tricks finds them, and in time that grows with text and words alone."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.text_matching import LONGEST, Match, Matcher, drop_cut_out, edge_kind

LETTERS = st.text("ab1国", min_size=1, max_size=6)


def is_whole(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    head, tail = edge_kind(text[start]), edge_kind(text[end - 1])
    return not (before and head and edge_kind(before) == head) and not (after and tail and edge_kind(after) == tail)


@settings(max_examples=300, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=8, unique=True), st.text("ab1国 ", max_size=20))
def test_every_match_is_a_whole_word_and_none_overlaps_another(words: list[str], text: str) -> None:
    found = Matcher(words).find(text)
    assert all(text[start:end] == words[number - 1] and is_whole(text, start, end) for number, start, end in found)
    assert all(one[2] <= other[1] for one, other in pairwise(found))
    if not found:
        places = [(start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
        there = [place for place in places if text[slice(*place)] in words]
        # Where a word begins within one that is glued, and goes beyond it, it is not looked for.
        assert not any(is_whole(text, *one) and not any(low < one[0] < high for low, high in there) for one in there)
    rows, numbers = Matcher(words).find_all([text, text])
    assert [*zip(rows.tolist(), numbers.tolist(), strict=True)] == [(row, one[0]) for row in (0, 1) for one in found]


def test_words_of_one_letter_take_no_time_to_speak_of() -> None:
    """The suite's limit of 300 seconds would stop it: it took minutes, or ended by too deep a recursion."""
    glued = Matcher(["a" * length for length in range(1, 1200)])
    assert glued.find("a" * 100) == [(100, 0, 100)]
    assert glued.find("a" * 64_000) == []
    assert glued.find(f"{'a' * 99}1") == [(99, 0, 99)]
    found: list[Match] = Matcher(["国", "a" * 64_000]).find("a" * 64_000)
    assert found == [(2, 0, 64_000)]
    assert LONGEST < 1200
    assert drop_cut_out("国" * 100_000, [(1, place, place + 1) for place in range(100_000)])

"""Frames picked from many: each look once, the long ones first, nothing blank."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.vision.media.scenes import DIFFERENT, Sample, pick_samples

LOOKS = np.random.default_rng(1).integers(0, 256, (12, 24, 24, 3)).astype(np.uint8)


def samples(looks: list[int]) -> list[Sample]:
    return [Sample(number, number * 40, LOOKS[look], look) for number, look in enumerate(looks)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=60), st.integers(1, 6))
def test_every_look_is_picked_once_where_there_is_room(looks: list[int], count: int) -> None:
    picked = pick_samples(samples(looks), count)
    found = [sample.picture for sample in picked]
    assert len(set(found)) == len(found) <= count
    assert [sample.number for sample in picked] == sorted(sample.number for sample in picked)
    assert all(looks[sample.number] == sample.picture for sample in picked)
    if len(set(looks)) <= count:
        assert set(found) == set(looks)


def test_a_long_scene_outweighs_a_passing_frame() -> None:
    looks = [0] * 10 + [1] + [2] * 10 + [3] + [4] * 10
    assert [sample.picture for sample in pick_samples(samples(looks), 3)] == [0, 2, 4]


def test_blank_frames_are_picked_only_where_all_are() -> None:
    black, white = (Sample(number, 0, np.full((24, 24, 3), 255 * number, np.uint8), None) for number in (0, 1))
    assert [sample.number for sample in pick_samples([black, white], 4)] == [0, 1]
    assert [sample.number for sample in pick_samples([black, white, Sample(2, 0, LOOKS[0], None)], 4)] == [2]


def test_frames_that_hardly_differ_are_one() -> None:
    still = [Sample(number, 0, LOOKS[0] // 2 + number % 3, None) for number in range(20)]
    assert len(pick_samples(still, 4)) == 1 and DIFFERENT > 2


def test_a_caption_that_changes_over_a_still_picture_is_seen() -> None:
    noise = np.random.default_rng(2).integers(-1, 2, (90, 24, 24, 3))
    frames = LOOKS[0] // 2 + 60 + noise
    for number, frame in enumerate(frames):
        frame[20:22, 6 + number // 30 * 4 : 14 + number // 30 * 2] += 20
    shown = [Sample(number, 0, frame.astype(np.uint8), number // 30) for number, frame in enumerate(frames)]
    assert [sample.picture for sample in pick_samples(shown, 4)] == [0, 1, 2]
    assert len(pick_samples(shown[:30], 4)) == 1


def test_a_minute_of_frames_is_never_held_at_once() -> None:
    held = 0

    class Picture:
        def __init__(self) -> None:
            nonlocal held
            held += 1

        def __del__(self) -> None:
            nonlocal held
            held -= 1
            counts.append(held)

    counts: list[int] = []
    pick_samples((Sample(number, 0, LOOKS[number % 12], Picture()) for number in range(200)), 3)
    assert max(counts) <= 7

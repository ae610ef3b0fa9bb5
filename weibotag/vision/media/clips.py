"""Clips to frames with PyAV: at most a few, spread over the clip, at a cost that its length does not raise."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weibotag.vision.media.formats import NotAPictureError, check_pixels
from weibotag.vision.media.movie_tables import choose_options
from weibotag.vision.media.scenes import THUMBNAIL, Sample, pick_samples

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Where FFmpeg's demuxer has another name than the format.
DEMUXERS = {"MP4": "mov", "3GP": "mov", "WEBM": "matroska", "TS": "mpegts", "WMV": "asf"}
# Places of a clip that are looked at, evenly over its length.
SAMPLES = 32
ENOUGH_KEYS = 16
# What is decoded on the way to them: 540 frames of 1280 x 720, a quarter of a second to a second of a core.
WATCHED_PIXELS = 500_000_000
WATCHED_FRAMES = 2000
# Packets in which a place must show a key frame, and those that a decoder may hold back before it gives a frame.
KEY_PACKETS = 2000
HELD_BACK = 64
# Later than any frame: where a clip that doesn't say its length is asked for its last key frame.
FAR_SECONDS = 1_000_000
# Frames per second where a clip says nothing, and the most that are believed.
DEFAULT_RATE = 25
HIGHEST_RATE = 1000
LONGEST_MS = 2**31 - 1

# Frame number, time in ms (none for a picture that does not move), uint8 RGB (height, width, 3).
Still = tuple[int, int | None, np.ndarray]


@dataclass(frozen=True)
class Clip:
    """A clip that is open: its times are counted in `unit` seconds, its first frame is shown at `start`."""

    container: InputContainer
    stream: VideoStream
    unit: float
    start: int
    rate: float


@dataclass(frozen=True)
class Visit:
    """One start of the decoder: seek to `place`, decode up to `packets`, show the frames at `goals`; in a clip's units."""

    place: int
    goals: list[int]
    packets: int


def read_clip(path: Path, kind: str, max_frames: int, max_pixels: int) -> list[Still]:
    """Return (frame number, time in ms, uint8 RGB (height, width, 3)) of at most `max_frames` frames, in time order.

    The frame number is time x rate, 0 only for the first frame. Frames are turned upright. Raises NotAPictureError with
    the reason when there is no sound frame, and what PyAV raises.
    """
    import av

    # The demuxer is named because a file that chooses it could make FFmpeg open other files and addresses.
    demuxer = DEMUXERS.get(kind, kind.lower())
    options = {"max_pixels": str(max_pixels)} | (choose_options(path) if demuxer == "mov" else {})
    container = av.open(f"file:{path}", "r", format=demuxer, metadata_errors="ignore", options=options)
    with container:
        clip = open_stream(container, kind, max_pixels)
        samples = pick_samples(watch(clip), max_frames)
        if not samples:
            raise NotAPictureError(f"damaged {kind}: none of its frames can be decoded")
        return [(sample.number, sample.time_ms, upright_pixels(sample.picture)) for sample in samples]


def open_stream(container: InputContainer, kind: str, max_pixels: int) -> Clip:
    """Return the first video stream that is no cover picture, set up for one thread; raises NotAPictureError for none."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        reason = "sound only" if container.streams.audio else "no video stream"
        raise NotAPictureError(f"no picture in this {kind} file: {reason}")
    stream, codec = streams[0], streams[0].codec_context
    if codec is None:
        raise NotAPictureError(f"{kind} with a video codec that PyAV can't decode: convert it to H.264")
    check_pixels((codec.width, codec.height), max_pixels)
    # A clip's frames may grow after its header.
    codec.options = {"max_pixels": str(max_pixels)}
    codec.thread_type, codec.thread_count = "NONE", 1
    # Frames that no other frame needs are half of most clips; the others are close enough to every place.
    codec.skip_frame = "NONREF"
    rate = min(HIGHEST_RATE, float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE))
    return Clip(container, stream, float(stream.time_base or 1), stream.start_time or 0, rate)


def watch(clip: Clip) -> Iterator[Sample]:
    """Yield the sound frames at up to `SAMPLES` places of a clip, in time order."""
    from av import FFmpegError
    from av.video.reformatter import Interpolation

    width, height = THUMBNAIL
    smooth = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    number, last = -1, clip.start - 1
    for visit in plan_visits(clip):
        try:
            clip.container.seek(visit.place, stream=clip.stream)
        except FFmpegError:
            continue
        for time, frame in show_goals(decode(clip, visit.packets), visit.goals):
            seconds = (time - clip.start) * clip.unit
            if time <= last or seconds * 1000 > LONGEST_MS:
                continue
            last = time
            number = max(number + 1, round(seconds * clip.rate))
            thumbnail = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation=smooth, threads=1)
            yield Sample(number, int(seconds * 1000), thumbnail, frame)


def plan_visits(clip: Clip) -> list[Visit]:
    """Return where the decoder starts and what it shows, so that it decodes little more than `WATCHED_FRAMES` and `_PIXELS`.

    Decoding starts at key frames only, and where there are enough of them they are shown. Otherwise, where the way from
    key frames to places is longer than the limit, all places move towards their key frames in proportion.
    """
    length = max(0, clip_length(clip))
    places = [clip.start + length * part // SAMPLES for part in range(SAMPLES)]
    # Before the start too, because transport streams seek to some packet near the place, and the first key frame is past.
    seeks = [clip.start - int(1 / clip.unit), *places]
    found = {key: seek for seek in reversed(seeks) if (key := find_key(clip, seek)) is not None}
    keys = sorted(found) or [clip.start]
    goals: dict[int, list[int]] = {}
    for place in keys if len(keys) >= ENOUGH_KEYS else places:
        key = keys[max(0, bisect_right(keys, place) - 1)]
        goals.setdefault(key, []).append(max(key, place))
    steps = {key: (group[-1] - key) * clip.unit * clip.rate for key, group in goals.items()}
    pixels = max(1, clip.stream.codec_context.width * clip.stream.codec_context.height)
    share = min(1.0, min(WATCHED_FRAMES, WATCHED_PIXELS / pixels) / max(1.0, sum(steps.values())))
    return [
        Visit(
            found.get(key, key),
            [key + int((goal - key) * share) for goal in group],
            HELD_BACK + int(2 * share * steps[key]),
        )
        for key, group in goals.items()
    ]


def clip_length(clip: Clip) -> int:
    """Return how long a clip is in its units: as it says, else up to its last key frame."""
    if clip.stream.duration:
        return clip.stream.duration
    if clip.container.duration:
        return int(clip.container.duration / 1_000_000 / clip.unit)
    end = find_key(clip, int(FAR_SECONDS / clip.unit))
    return 0 if end is None else end - clip.start


def find_key(clip: Clip, place: int) -> int | None:
    """Return the time of the first key frame that a seek to `place` leads to; None where there is none."""
    from av import FFmpegError

    try:
        clip.container.seek(place, stream=clip.stream)
        for packet in islice(clip.container.demux(clip.stream), KEY_PACKETS):
            if packet.is_keyframe and packet.size:
                return packet.dts if packet.pts is None else packet.pts
    except FFmpegError:
        return None
    return None


def decode(clip: Clip, packets: int) -> Iterator[tuple[int, VideoFrame]]:
    """Yield (time, frame) of the next packets; after damage nothing until a key frame, because what follows builds on it."""
    from av import FFmpegError

    sound = True
    for packet in read_packets(clip, packets):
        try:
            frames = packet.decode()
        except FFmpegError:
            sound = False
            continue
        for frame in frames:
            sound = (sound or frame.key_frame) and not frame.is_corrupt
            time = frame.dts if frame.pts is None else frame.pts
            if sound and time is not None:
                yield time, frame


def read_packets(clip: Clip, count: int) -> Iterator[Packet[VideoStream]]:
    """Yield up to `count` packets from the next key frame on, until the clip ends or can't be read."""
    from av import FFmpegError

    packets = clip.container.demux(clip.stream)
    try:
        yield from islice(dropwhile(lambda packet: not packet.is_keyframe, islice(packets, KEY_PACKETS + count)), count)
    except FFmpegError:
        return


def show_goals(frames: Iterable[tuple[int, VideoFrame]], goals: list[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the first frame at or after each of `goals`, each frame once."""
    shown = 0
    for time, frame in frames:
        if time >= goals[shown]:
            yield time, frame
            shown = bisect_right(goals, time)
            if shown == len(goals):
                return


def upright_pixels(frame: VideoFrame) -> np.ndarray:
    """Return a frame's pixels, turned as its display matrix says: uint8 RGB (height, width, 3)."""
    from av.video.reformatter import Interpolation

    smooth = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    pixels = frame.to_ndarray(format="rgb24", interpolation=smooth, threads=1)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

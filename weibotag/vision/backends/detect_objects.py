"""What every object detector answers with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectedObject:
    """One object; label: the model's name of its class; score 0 to 1; box: x y width height, pixels of the picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]

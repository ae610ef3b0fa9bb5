"""Pictures of every mode to 8-bit RGB, and the ground that a transparent one is put on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# The grounds that transparent pictures are put on, white unless it shows less than a share of what another does, by steps of
# grey of a copy that is small; two greys that are `SEEN` apart are told apart as well as black and white.
GROUNDS, GROUND_SHARE, GROUND_SIDE, SEEN = (255, 0, 128), 0.8, 512, 64.0


def to_rgb(image: Image) -> Image:
    """Return a decoded picture of any mode as 8-bit RGB, what is transparent on a ground."""
    from PIL import Image as pillow
    from PIL import ImageChops

    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        grey = pillow.fromarray(scale_to_8_bits(values))
        clear = image.info.get("transparency")
        if clear is None:
            return grey.convert("RGB")
        grey.putalpha(pillow.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return on_ground(grey)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, whose ink values are stored inverted.
        return ImageChops.invert(image).convert("RGB")
    return on_ground(image) if image.has_transparency_data else image.convert("RGB")


def on_ground(image: Image) -> Image:
    """Return a picture that is transparent in part as RGB, on the ground that leaves most to see: white if in doubt."""
    from PIL import Image as pillow

    layer = image.convert("RGBA")
    shade: int = 255
    if np.asarray(layer.getchannel("A")).min() < 255:
        scale = min(1.0, GROUND_SIDE / max(layer.size))
        size = max(1, int(layer.width * scale)), max(1, int(layer.height * scale))
        small = layer.resize(size, pillow.Resampling.NEAREST)
        light, alpha = (np.asarray(small.convert("LA"), np.float32)[..., band] for band in (0, 1))
        seen = {shade: edges(light * alpha / 255 + shade * (1 - alpha / 255)) for shade in GROUNDS}
        best = max(seen, key=lambda one: seen[one])
        shade = best if seen[255] < GROUND_SHARE * seen[best] else 255
    ground = pillow.new("RGB", layer.size, (shade,) * 3)
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground


def edges(grey: np.ndarray) -> float:
    """Return how much there is to see in grey values (height, width): the steps between neighbours, strong ones capped."""
    return float(sum(np.minimum(np.abs(np.diff(grey, axis=axis)), SEEN).sum() for axis in (0, 1)))


def scale_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values as uint8: 16-bit ones by their high byte, wider and real ones stretched from least to most."""
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    real = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    least, most = float(real.min()), float(real.max())
    return ((real - least) * (255.0 / (most - least) if most > least else 0.0)).astype(np.uint8)

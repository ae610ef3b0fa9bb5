"""Pictures with known text, over plain grounds or photos: stickers, memes, posters, ads, screenshots, long pictures.

Also what such prints hide: small print, letters of display faces with shadows and slants, and pages that were photographed.
"""

import csv
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps, ImageStat

ROOT = Path(__file__).resolve().parents[1]
LATIN = "SALE NEW iPhone Wi-Fi Pro Max VIP OPEN Coffee TODAY Best Price Summer Live Tour Hello World Studio GB Free"
NUMBERS = ("¥{}", "{}元", "{}%", "{}-{}-{}", "{}:{}", "第{}名", "{}年{}月{}日", "满{}减{}", "{}.{}折", "0{}-{}{}")


@dataclass(frozen=True)
class Kind:
    """Pictures of one sort: ranges of width, height, columns, lines a column and letter height, in pixels."""

    share: float
    width: tuple[int, int]
    height: tuple[int, int]
    columns: tuple[int, int]
    lines: tuple[int, int]
    letters: tuple[tuple[int, int], ...]
    display: bool = False
    photographed: bool = False


KINDS = {
    "sticker": Kind(0.15, (80, 200), (80, 200), (1, 1), (1, 2), ((14, 36),)),
    "meme": Kind(0.35, (200, 480), (160, 480), (1, 1), (1, 3), ((16, 26), (22, 48))),
    "poster": Kind(0.2, (640, 640), (960, 960), (1, 2), (4, 14), ((12, 17), (18, 30), (24, 44), (50, 110))),
    "ad": Kind(0.08, (700, 1200), (800, 1400), (2, 3), (6, 16), ((13, 20), (18, 34), (36, 80))),
    "screenshot": Kind(0.07, (720, 1080), (1280, 2000), (1, 1), (12, 32), ((26, 32), (30, 42))),
    "long": Kind(0.05, (600, 600), (2000, 2000), (1, 1), (18, 50), ((15, 24), (22, 40), (40, 80))),
    "small print": Kind(0.08, (600, 1000), (700, 1200), (1, 3), (12, 30), ((8, 12), (9, 14))),
    "stylised": Kind(0.15, (400, 900), (400, 1000), (1, 1), (2, 6), ((30, 60), (50, 120)), display=True),
    "photographed": Kind(0.1, (700, 1000), (700, 1200), (1, 2), (6, 14), ((14, 24), (22, 48)), photographed=True),
    "no text": Kind(0.1, (120, 1000), (120, 1000), (1, 1), (0, 0), ((20, 20),)),
}


@dataclass
class Sample:
    """A picture file and what is written in it; of an `open` one more is written than is known."""

    path: Path
    text: str
    open: bool = False


class Press:
    """Draws pictures with known text, from a seed."""

    def __init__(self, photos: Path | None, seed: int, display: Path | None = None) -> None:
        self.draw = random.Random(seed)
        self.faces = find_faces()
        self.display = sorted((str(path), 0) for path in display.glob("*.[to]tf")) if display else []
        with (ROOT / "taxonomies" / "weibo.csv").open(encoding="utf-8") as file:
            cells = [f"{row['name']};{row['aliases']};{row['keywords']}" for row in csv.DictReader(file)]
        self.words = sorted({word for cell in cells for word in cell.split(";") if word})
        self.chinese = [word for word in self.words if all("\u4e00" <= letter <= "\u9fff" for letter in word)]
        found = (path for path in (photos.rglob("*") if photos else ()) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        self.photos = sorted(found)

    def print_sample(self, kind: Kind, stem: Path) -> Sample:
        """Write one picture of a kind beside `stem` and return it with its text."""
        width, height = self.draw.randint(*kind.width), self.draw.randint(*kind.height)
        photo = bool(self.photos) and self.draw.random() < 0.6
        image = self.crop_photo(width, height) if photo else self.plain_ground(width, height)
        texts: list[str] = []
        self.used = self.display if kind.display and self.display else self.faces
        columns = self.draw.randint(*kind.columns)
        for column in range(columns):
            left, right = width * column // columns, width * (column + 1) // columns
            texts += self.fill_column(image, kind, (left, right), photo)
        if kind.photographed:
            image = self.photograph(image)
        if self.draw.random() < 0.7:
            path = stem.with_suffix(".jpg")
            image.save(path, quality=self.draw.randint(60, 95))
        else:
            path = stem.with_suffix(".png")
            image.save(path)
        return Sample(path, "\n".join(texts))

    def fill_column(self, image: Image.Image, kind: Kind, span: tuple[int, int], photo: bool) -> list[str]:
        """Write lines between two x into `image`, from top to bottom, and return them."""
        count = self.draw.randint(*kind.lines)
        sizes = [self.draw.randint(*self.draw.choice(kind.letters)) for _ in range(count)]
        face, margin = self.draw.choice(self.used), max(3, (span[1] - span[0]) // 25)
        spare = image.height - 2 * margin - sum(round(1.5 * size) for size in sizes)
        top, texts = margin + max(0, self.draw.randint(0, max(0, spare)) // 2), []
        if count <= 3 and self.draw.random() < 0.6:
            top = max(margin, margin + spare)
        for size in sizes:
            if self.draw.random() < 0.2:
                face = self.draw.choice(self.used)
            font = ImageFont.truetype(face[0], size, index=face[1])
            text = self.compose(font, span[1] - span[0] - 2 * margin, kind.display)
            if not text or top + round(1.3 * size) > image.height - margin:
                continue
            height = self.write(image, text, font, (span[0] + margin, span[1] - margin, top), photo, kind.display)
            texts.append(text)
            top += max(height, round(size * self.draw.uniform(1.35, 1.8))) + max(0, spare) // (2 * count + 1)
        return texts

    def compose(self, font: ImageFont.FreeTypeFont, room: int, display: bool) -> str:
        """Return words, names and numbers that fill a random part of `room` pixels; empty when none fits.

        Display faces have Chinese letters alone.
        """
        text, goal = "", room * self.draw.uniform(0.35, 1)
        for _ in range(60):
            lot = self.draw.random()
            if display:
                word = self.draw.choice(self.chinese)
            elif lot < 0.12:
                word = self.draw.choice(NUMBERS).format(*(self.draw.randint(1, 99) for _ in range(3)))
            elif lot < 0.25:
                word = f" {self.draw.choice(LATIN.split())} "
            else:
                word = self.draw.choice(self.words) + self.draw.choice(("", "", "", "，", "！", "的", "了"))
            if font.getlength(text + word) > room:
                break
            text += word
            if font.getlength(text) > goal:
                break
        return text.strip()

    def write(
        self,
        image: Image.Image,
        text: str,
        font: ImageFont.FreeTypeFont,
        place: tuple[int, int, int],
        photo: bool,
        display: bool,
    ) -> int:
        """Draw one line, sometimes turned a little, in a colour that stands out; return how high it is, pixels.

        `display`: with a shadow, slanted.
        """
        left, right, top = place
        size = font.size
        outline = max(1, round(size / 14)) if photo and self.draw.random() < 0.7 else 0
        length = round(font.getlength(text)) + 2 * outline
        layer = Image.new("RGBA", (length + 4, round(1.45 * size) + 2 * outline))
        x = round(left + self.draw.choice((0, 0.5, 0.5, 1)) * max(0, right - left - layer.width))
        patch = image.crop((x, top, min(image.width, x + layer.width), min(image.height, top + layer.height)))
        ground = ImageStat.Stat(patch.convert("L")).mean[0]
        ink = self.pick_ink(ground, 110 if photo else 80)
        if photo and not outline:
            bar = Image.new("RGB", patch.size, self.pick_ink(luminance(ink), 110))
            image.paste(Image.blend(patch, bar, self.draw.uniform(0.6, 1)), (x, top))
        edge = (0, 0, 0) if luminance(ink) > 128 else (255, 255, 255)
        pen = ImageDraw.Draw(layer)
        if display:
            shadow = max(1, round(size * self.draw.uniform(0.03, 0.08)))
            pen.text((outline + shadow, shadow), text, (*edge, 160), font)
        pen.text((outline, 0), text, ink, font, stroke_width=outline, stroke_fill=edge)
        if display and length + size // 4 < right - left:
            slant = self.draw.uniform(-0.25, 0.25)
            shear = (1, slant, min(0.0, -slant * layer.height), 0, 1, 0)
            wide = (layer.width + round(abs(slant) * layer.height), layer.height)
            layer = layer.transform(wide, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
        if self.draw.random() < 0.15 and top + layer.height + length // 14 < image.height:
            layer = layer.rotate(self.draw.uniform(-4, 4), Image.Resampling.BICUBIC, expand=True)
        image.paste(layer, (x, top), layer)
        return layer.height

    def photograph(self, image: Image.Image) -> Image.Image:
        """Return a picture as a camera has it: seen from one side, unevenly lit, not quite sharp, with noise."""
        width, height = image.size
        moves = [self.draw.uniform(0, 0.08) for _ in range(8)]
        # The corners of what is seen, from top left down and round, lie outside of the page: it shrinks.
        corners = (
            -moves[0] * width, -moves[1] * height, -moves[2] * width, (1 + moves[3]) * height,
            (1 + moves[4]) * width, (1 + moves[5]) * height, (1 + moves[6]) * width, -moves[7] * height,
        )  # fmt: skip
        ground = (self.draw.randint(40, 160),) * 3
        image = image.transform(image.size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC, fillcolor=ground)
        ramp = Image.linear_gradient("L").rotate(self.draw.choice((0, 90, 180, 270))).resize(image.size)
        image = Image.composite(image, ImageEnhance.Brightness(image).enhance(self.draw.uniform(0.45, 0.9)), ramp)
        image = image.filter(ImageFilter.GaussianBlur(self.draw.uniform(0.3, 1.1)))
        noise = Image.effect_noise(image.size, self.draw.uniform(4, 16)).convert("RGB")
        return ImageChops.add(image, noise, 1, -128)

    def pick_ink(self, ground: float, contrast: float) -> tuple[int, int, int]:
        """Return a colour whose luminance differs from `ground` by `contrast` or more (0 to 255)."""
        for _ in range(100):
            red, green, blue = (self.draw.choice((0, 255, self.draw.randint(0, 255))) for _ in range(3))
            ink = red, green, blue
            if abs(luminance(ink) - ground) >= contrast:
                return ink
        return (0, 0, 0) if ground > 128 else (255, 255, 255)

    def plain_ground(self, width: int, height: int) -> Image.Image:
        """Return one colour, or a gradient of two."""
        one, two = (tuple(self.draw.choice((255, self.draw.randint(0, 255))) for _ in range(3)) for _ in range(2))
        if self.draw.random() < 0.6:
            return Image.new("RGB", (width, height), one)
        ramp = Image.linear_gradient("L").resize((width, height))
        return ImageOps.colorize(ramp, one, tuple((a * 2 + b) // 3 for a, b in zip(one, two, strict=True)))

    def crop_photo(self, width: int, height: int) -> Image.Image:
        """Return a photo, cut to the size."""
        with Image.open(self.draw.choice(self.photos)) as photo:
            return ImageOps.fit(photo.convert("RGB"), (width, height), Image.Resampling.BICUBIC)


def luminance(ink: tuple[int, ...]) -> float:
    """Return the luminance of an RGB colour, 0 to 255."""
    return 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2]


def find_faces() -> list[tuple[str, int]]:
    """Return (file, index) of the installed faces that have Chinese letters."""
    listed = ""
    if shutil.which("fc-list"):
        command = ["fc-list", "-f", "%{file}|%{index}|%{family}\n", ":lang=zh-cn"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("|") for line in listed.splitlines()]
    # An index above 16 bits is a named instance of a variable font, which FreeType does not count as a face.
    faces = {(path, int(index)) for path, index, family in rows if int(index) < 2**16 and "Mono" not in family}
    if not faces:
        raise SystemExit("no Chinese fonts: apt-get install fontconfig fonts-noto-cjk fonts-wqy-microhei fonts-wqy-zenhei")
    return sorted(faces)

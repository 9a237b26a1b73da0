"""The easel of the sample's pictures: cloth with a pattern, cut into soft-cornered parts, shaded
and outlined.

Coordinates are pixels of the finished picture: x from the middle (-48 … 48), y from the top (0 …
96). Everything is drawn four times larger and shrunk once at the end, so edges are smooth. The same
generator gives the same pixels. A picture of ten parts takes about 18 ms on one core.
"""

import math
from collections.abc import Callable, Sequence
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point = tuple[float, float]
RGB = tuple[int, int, int]

SIZE = 96
SUPERSAMPLING = 4
CANVAS = SIZE * SUPERSAMPLING

BLACK: RGB = (18, 18, 22)
CREAM: RGB = (250, 246, 236)
GOLD: RGB = (226, 178, 64)
SILVER: RGB = (204, 208, 214)

COLOURS: dict[str, RGB] = {
    "black": (42, 42, 46),
    "slate grey": (126, 134, 145),
    "navy": (30, 44, 96),
    "sky blue": (122, 186, 236),
    "pine green": (22, 92, 68),
    "mint green": (152, 222, 184),
    "burnt orange": (214, 98, 28),
    "mustard yellow": (232, 184, 40),
    "scarlet red": (212, 30, 38),
    "burgundy": (112, 20, 52),
    "blush pink": (246, 178, 190),
    "violet": (124, 72, 176),
    "chocolate brown": (98, 60, 34),
    "camel": (200, 160, 112),
}


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Return the colour that lies ``share`` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def luminance(colour: RGB) -> float:
    """Return how bright a colour looks, 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def soften(corners: Sequence[Point], radius: float) -> list[Point]:
    """Round every corner of a closed polygon by a quadratic curve from ``radius`` before it."""
    curve: list[Point] = []
    for index, corner in enumerate(corners):
        start = step_towards(corner, corners[index - 1], radius)
        end = step_towards(corner, corners[(index + 1) % len(corners)], radius)
        curve += [bend(start, corner, end, step / 5) for step in range(6)]
    return curve


def step_towards(start: Point, goal: Point, length: float) -> Point:
    """Go ``length`` from one point towards another, at most half of the way."""
    return between(start, goal, min(0.5, length / max(math.dist(start, goal), 1e-6)))


def bend(start: Point, control: Point, end: Point, share: float) -> Point:
    """Return a point of a quadratic Bézier curve."""
    left, middle, right = (1 - share) ** 2, 2 * share * (1 - share), share**2
    return (
        left * start[0] + middle * control[0] + right * end[0],
        left * start[1] + middle * control[1] + right * end[1],
    )


def between(start: Point, goal: Point, share: float) -> Point:
    """Return the point that lies ``share`` of the way from one point to another."""
    return start[0] + (goal[0] - start[0]) * share, start[1] + (goal[1] - start[1]) * share


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def flip(points: Sequence[Point]) -> list[Point]:
    """Mirror points at the middle line."""
    return [(-x, y) for x, y in points]


def symmetric(right: Sequence[Point]) -> list[Point]:
    """Close a right half, listed from top to bottom, with its mirror image."""
    return [*right, *reversed(flip(right))]


def circle(centre: Point, radius: float) -> list[Point]:
    """Return a polygon that looks round."""
    angles = [math.tau * step / 20 for step in range(20)]
    return [
        (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
        for angle in angles
    ]


def bounds(points: Sequence[Point], margin: int = 12) -> tuple[int, int, int, int]:
    """Return the box around points on the canvas: left, top, right, bottom."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (
        int(min(xs)) - margin,
        int(min(ys)) - margin,
        int(max(xs)) + margin,
        int(max(ys)) + margin,
    )


# ---- patterns: each draws its ink on a square mask ----

PATTERN_SIZE = CANVAS * 3 // 2  # room for the corners when the cloth is turned
Ink = ImageDraw.ImageDraw


def draw_stripes(ink: Ink, period: float) -> None:
    for row in range(int(PATTERN_SIZE / period) + 1):
        ink.rectangle((0, row * period, PATTERN_SIZE, row * period + 0.42 * period), fill=255)


def draw_dots(ink: Ink, period: float) -> None:
    radius = 0.27 * period
    for row in range(int(PATTERN_SIZE / period) + 1):
        for column in range(int(PATTERN_SIZE / period) + 1):
            x, y = (column + row % 2 / 2) * period, row * period
            ink.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def draw_checks(ink: Ink, period: float) -> None:
    bands = [
        (step * period, step * period + 0.45 * period)
        for step in range(int(PATTERN_SIZE / period) + 1)
    ]
    for start, end in bands:
        ink.rectangle((0, start, PATTERN_SIZE, end), fill=120)
        ink.rectangle((start, 0, end, PATTERN_SIZE), fill=120)
    for top, bottom in bands:
        for left, right in bands:
            ink.rectangle((left, top, right, bottom), fill=255)


def draw_flowers(ink: Ink, period: float) -> None:
    petal = 0.155 * period
    for row in range(int(PATTERN_SIZE / period) + 1):
        for column in range(int(PATTERN_SIZE / period) + 1):
            x, y = (column + row % 2 / 2) * period, row * period
            for step in range(5):
                angle = math.tau * step / 5 + row + column
                px, py = x + 1.35 * petal * math.cos(angle), y + 1.35 * petal * math.sin(angle)
                ink.ellipse((px - petal, py - petal, px + petal, py + petal), fill=255)
            ink.ellipse(
                (x - 0.8 * petal, y - 0.8 * petal, x + 0.8 * petal, y + 0.8 * petal), fill=0
            )
            stem = [(x + 0.5 * period, y - 0.16 * period), (x + 0.42 * period, y + 0.16 * period)]
            ink.line(stem, fill=235, width=round(0.09 * period))


def draw_chevrons(ink: Ink, period: float) -> None:
    for row in range(int(PATTERN_SIZE / period) + 2):
        steps = range(int(2 * PATTERN_SIZE / period) + 2)
        zigzag = [(step * period / 2, (row + 0.55 * (step % 2)) * period) for step in steps]
        ink.line(zigzag, fill=255, width=round(0.3 * period), joint="curve")


# name → (what draws it, period in pixels of the finished picture)
PATTERNS: dict[str, tuple[Callable[[Ink, float], None], float] | None] = {
    "solid": None,
    "striped": (draw_stripes, 9.0),
    "dotted": (draw_dots, 9.0),
    "checked": (draw_checks, 11.0),
    "floral": (draw_flowers, 15.0),
    "chevron": (draw_chevrons, 10.0),
}


class Easel:
    """A picture in the making: ``part`` cuts cloth, ``patch`` plain material, ``stroke`` sews."""

    def __init__(self, colour: str, pattern: str, random: Random) -> None:
        self.base = COLOURS[colour]
        self.pattern = PATTERNS[pattern]
        is_light = luminance(self.base) > 155
        self.ink = mix(self.base, BLACK, 0.62) if is_light else CREAM
        self.contrast: RGB = (44, 44, 60) if is_light else CREAM
        self.lining: RGB = (
            mix(self.base, BLACK, 0.5) if luminance(self.base) > 100 else (206, 200, 192)
        )
        self.outline = mix(self.base, BLACK, 0.62)
        # Black cloth cannot get darker: its folds are drawn as light.
        self.shadow = (
            mix(self.base, BLACK, 0.6) if luminance(self.base) > 60 else mix(self.base, CREAM, 0.3)
        )
        self.turn = math.radians(random.uniform(-4, 4))
        self.zoom = random.uniform(0.92, 1.0)
        self.shift = (random.uniform(-2, 2), random.uniform(-1.5, 1.5))
        self.period = random.uniform(0.9, 1.12)
        margin = (PATTERN_SIZE - CANVAS) // 2
        self.phase = (margin + random.randint(-16, 16), margin + random.randint(-16, 16))
        self.facing = random.choice((-1, 1))
        self.pivot = SIZE / 2
        self.image = self.backdrop(random)
        self.cloths: dict[int, Image.Image] = {}

    @staticmethod
    def backdrop(random: Random) -> Image.Image:
        """Return the near-white studio wall, a little darker towards the floor."""
        top, warmth = random.randint(246, 253), random.randint(-2, 2)
        wall: RGB = (top + min(warmth, 2), top, top - warmth)
        fall = (
            Image.linear_gradient("L")
            .resize((CANVAS, CANVAS))
            .point([value // 3 for value in range(256)])
        )
        floor = Image.new("RGB", (CANVAS, CANVAS), mix(wall, BLACK, random.uniform(0.1, 0.2)))
        return Image.composite(floor, Image.new("RGB", (CANVAS, CANVAS), wall), fall)

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Turn, zoom and shift points from the drawing's coordinates to the canvas."""
        cosine, sine = math.cos(self.turn) * self.zoom, math.sin(self.turn) * self.zoom
        left, top = SIZE / 2 + self.shift[0], SIZE / 2 + self.shift[1]
        return [
            (
                (left + self.facing * x * cosine - (y - self.pivot) * sine) * SUPERSAMPLING,
                (top + self.facing * x * sine + (y - self.pivot) * cosine) * SUPERSAMPLING,
            )
            for x, y in points
        ]

    def centre(self, top: float, bottom: float, zoom: float = 1.0) -> None:
        """Hang what is drawn between two heights in the middle of the picture."""
        self.pivot = (top + bottom) / 2
        self.zoom *= zoom

    def cloth(self, angle: int) -> Image.Image:
        """Return a canvas full of patterned cloth, turned by ``angle`` degrees."""
        if angle not in self.cloths:
            plain = Image.new("RGB", (CANVAS, CANVAS), self.base)
            self.cloths[angle] = plain if self.pattern is None else self.printed(plain, angle)
        return self.cloths[angle]

    def printed(self, plain: Image.Image, angle: int) -> Image.Image:
        """Print the pattern on plain cloth."""
        assert self.pattern is not None
        draw, period = self.pattern
        mask = Image.new("L", (PATTERN_SIZE, PATTERN_SIZE), 0)
        draw(ImageDraw.Draw(mask), period * self.period * SUPERSAMPLING)
        mask = mask.rotate(angle - math.degrees(self.turn))
        left, top = self.phase
        mask = mask.crop((left, top, left + CANVAS, top + CANVAS))
        return Image.composite(Image.new("RGB", (CANVAS, CANVAS), self.ink), plain, mask)

    def part(
        self, corners: Sequence[Point], radius: float = 3.0, angle: int = 0, depth: float = 0.75
    ) -> None:
        """Cut a part from the cloth, shade it towards its edges and outline it."""
        self.fill(soften(corners, radius), self.cloth(angle), depth, self.outline, 1.1)

    def patch(
        self,
        corners: Sequence[Point],
        colour: RGB,
        radius: float = 0.0,
        edge: RGB | None = None,
        width: float = 0.8,
    ) -> None:
        """Cut a part from plain material of any colour."""
        plain = Image.new("RGB", (CANVAS, CANVAS), colour)
        curve = soften(corners, radius) if radius else list(corners)
        self.fill(curve, plain, 0.25, edge or mix(colour, BLACK, 0.6), width)

    def fill(
        self, curve: Sequence[Point], material: Image.Image, depth: float, edge: RGB, width: float
    ) -> None:
        """Lay material on the canvas inside a closed curve."""
        outline = self.place(curve)
        box = bounds(outline)
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
        ImageDraw.Draw(mask).polygon([(x - box[0], y - box[1]) for x, y in outline], fill=255)
        rim = ImageChops.invert(mask.filter(ImageFilter.BoxBlur(4.5 * SUPERSAMPLING)))
        rim = ImageChops.multiply(mask, rim.point([round(value * depth) for value in range(256)]))
        self.image.paste(material.crop(box), box[:2], mask)
        self.image.paste(self.shadow, box[:2], rim)
        self.stroke([*curve, curve[0]], edge, width)

    def stroke(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        """Draw a line through points; ``width`` in pixels of the finished picture."""
        pen = ImageDraw.Draw(self.image)
        pen.line(self.place(points), fill=colour, width=round(width * SUPERSAMPLING), joint="curve")

    def fold(self, points: Sequence[Point], width: float = 1.6, strength: float = 0.55) -> None:
        """Draw the soft shadow of a fold; the line must lie on cloth."""
        line = self.place(points)
        box = bounds(line)
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
        inside = [(x - box[0], y - box[1]) for x, y in line]
        pen = ImageDraw.Draw(mask)
        pen.line(
            inside, fill=round(255 * strength), width=round(width * SUPERSAMPLING), joint="curve"
        )
        self.image.paste(
            self.shadow, box[:2], mask.filter(ImageFilter.BoxBlur(0.8 * SUPERSAMPLING))
        )

    def finish(self) -> Image.Image:
        """Shrink the canvas to the finished picture."""
        return self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)

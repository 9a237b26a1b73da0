"""Clothes for the upper body: T-shirts to coats, all cut on one frame of shoulder, chest, waist and
hem.

`paint_upper` is the door. Coordinates are those of `fabric`. One picture costs about 20 ms on one
core.
"""

from dataclasses import dataclass, replace

from scripts.fabric import RGB, Easel, Point, between, circle, flip, rectangle, symmetric
from scripts.haberdashery import belt, bow, buttons, placket, pocket, zip_line
from scripts.products import Product


@dataclass(frozen=True)
class Frame:
    """Heights (y) and half widths (x) of a garment that hangs from the shoulders."""

    top: float
    chest: float
    waist: float
    hem: float
    neck_width: float
    shoulder_width: float
    chest_width: float
    waist_width: float
    hem_width: float

    @property
    def scale(self) -> float:
        return self.shoulder_width / 19


FRAMES = {
    "T-shirt": Frame(17, 36, 58, 82, 8, 19, 17.5, 16.5, 17.5),
    "shirt": Frame(17, 36, 58, 84, 7, 19, 17.5, 16.5, 18),
    "sweater": Frame(19, 39, 60, 82, 8, 21, 20.5, 21, 18),
    "hoodie": Frame(26, 45, 64, 88, 8, 21, 20.5, 21, 19),
    "jacket": Frame(19, 38, 60, 80, 8, 21, 20, 19, 20),
    "dress": Frame(12, 27, 42, 90, 6, 14, 13, 10, 20),
    "coat": Frame(14, 31, 47, 90, 7, 17, 16.5, 14.5, 20),
}
DRESS_HEMS = {"mini": (62.0, 19.0), "midi": (76.0, 22.0), "maxi": (92.0, 25.0)}
COAT_HEMS = {"knee length": (71.0, 19.0), "ankle length": (92.0, 22.0)}


def paint_upper(easel: Easel, product: Product) -> None:
    frame = FRAMES[product.garment]
    if product.garment in ("dress", "coat"):
        hem, width = (DRESS_HEMS if product.garment == "dress" else COAT_HEMS)[product.cut]
        frame = replace(frame, hem=hem, hem_width=width)

    crown = frame.top - (20 if product.neck == "hood" else 8)
    easel.centre(crown, frame.hem, zoom=min(1.0, 90 / (frame.hem - crown)))
    if product.neck == "hood":
        paint_hood(easel, frame)
    paint_sleeves(easel, frame, product)
    paint_torso(easel, frame, product)
    paint_neck(easel, frame, product.neck, product.detail == "contrast trim")

    if product.garment in ("jacket", "coat", "shirt"):
        paint_front_edge(easel, frame, product)
    paint_detail(easel, frame, product)


def paint_torso(easel: Easel, frame: Frame, product: Product) -> None:
    bare = 3.5 * frame.scale if product.sleeve == "sleeveless" else 0.0
    right: list[Point] = [
        (0, frame.top + 1),
        (frame.neck_width, frame.top - 2),
        (frame.shoulder_width - bare, frame.top + 2.5),
        (frame.shoulder_width - bare - 0.8, (frame.top + frame.chest) / 2),
        (frame.chest_width, frame.chest),
        (frame.waist_width, frame.waist),
        (frame.hem_width, frame.hem - (4 if product.garment == "shirt" else 0)),
        (frame.hem_width * 0.5, frame.hem + 1),
        (0, frame.hem + 1),
    ]
    easel.part(symmetric(right), radius=2.5)

    fall = frame.hem - frame.waist
    for x, lean in ((-0.55, -0.12), (0.1, 0.05), (0.6, 0.14)):
        start = (frame.waist_width * x, frame.waist + 0.3 * fall)
        easel.fold([start, (frame.hem_width * (x + lean), frame.hem - 3)])

    if product.garment in ("sweater", "hoodie"):
        paint_ribbing(easel, frame)


def paint_ribbing(easel: Easel, frame: Frame) -> None:
    width, top = frame.hem_width, frame.hem - 5
    easel.patch(symmetric([(width, top), (width - 0.5, frame.hem + 1)]), easel.base, 1)
    for step in range(1, 12):
        x = -width + step * width / 6
        easel.stroke([(x, top + 0.5), (x, frame.hem + 0.5)], easel.outline, 0.45)


def paint_sleeves(easel: Easel, frame: Frame, product: Product) -> None:
    if product.sleeve == "sleeveless":
        return

    right = sleeve_outline(frame, product.sleeve)
    wide = product.garment in ("sweater", "hoodie", "jacket", "coat")
    cuff = [
        right[2],
        right[3],
        between(right[3], right[4], 0.12),
        between(right[2], right[1], 0.11),
    ]
    if product.sleeve == "short sleeve":
        cuff = [
            right[2],
            right[3],
            between(right[3], right[4], 0.35),
            between(right[2], right[1], 0.28),
        ]

    for side, angle in ((right, 16), (flip(right), -16)):
        easel.part(
            side,
            radius=3 if wide else 2,
            angle=angle if product.sleeve == "long sleeve" else 2 * angle,
        )
        easel.fold([between(side[1], side[4], 0.6), between(side[4], side[1], 0.25)], strength=0.5)

    for side in (cuff, flip(cuff)):
        if product.detail == "contrast trim":
            easel.patch(side, easel.contrast, 0.5)
        elif product.garment in ("sweater", "hoodie"):
            easel.patch(side, easel.base, 0.5)


def sleeve_outline(frame: Frame, sleeve: str) -> list[Point]:
    """Return a right sleeve: shoulder, elbow, cuff outside and inside, armpit, under the torso."""
    scale, shoulder, top = frame.scale, frame.shoulder_width, frame.top
    armpit: list[Point] = [
        (frame.chest_width - 1, frame.chest + 3),
        (shoulder - 8 * scale, top + 8 * scale),
    ]

    if sleeve == "short sleeve":
        cuff: list[Point] = [
            (shoulder + 12 * scale, top + 20 * scale),
            (shoulder + 3 * scale, top + 27 * scale),
        ]
        return [(shoulder - 2, top + 1.5), (shoulder + 4 * scale, top + 5 * scale), *cuff, *armpit]

    cuff = [(shoulder + 15 * scale, top + 54 * scale), (shoulder + 6.5 * scale, top + 57 * scale)]
    return [(shoulder - 2, top + 1.5), (shoulder + 6.5 * scale, top + 14 * scale), *cuff, *armpit]


# ---- necks ----


def paint_neck(easel: Easel, frame: Frame, neck: str, has_trim: bool) -> None:
    width, top = frame.neck_width, frame.top
    if neck == "turtleneck":
        paint_turtleneck(easel, frame, easel.contrast if has_trim else easel.base)
        return

    depth = {"V-neck": 20.0, "lapel collar": 22.0, "crewneck": 8.0}.get(neck, 6.0) * max(
        frame.scale, 0.8
    )
    opening = neckline(width, top, depth, is_pointed=neck in ("V-neck", "lapel collar"))
    easel.patch(opening, easel.lining, 0, easel.outline)

    # What edges the opening.
    rim = opening[:-1]
    if neck in ("crewneck", "V-neck"):
        edge = easel.contrast if has_trim else easel.base
        easel.stroke(rim, easel.outline, 4.6 if has_trim else 3.4)
        easel.stroke(rim, edge, 3.4 if has_trim else 2.2)
    elif neck.endswith("collar"):
        right = collar_flap(neck, width, top, depth)
        for flap in (right, flip(right)):
            easel.patch(flap, easel.contrast if has_trim else easel.base, 0.8, easel.outline, 1.1)
    elif neck == "hood":
        for x in (-3.2, 3.2):
            easel.stroke([(x, top + 3), (x * 1.2, top + 16)], easel.contrast, 1.3)
            easel.patch(circle((x * 1.2, top + 16.5), 1.2), easel.contrast)


def paint_turtleneck(easel: Easel, frame: Frame, colour: RGB) -> None:
    width, top = frame.neck_width, frame.top
    easel.patch(symmetric([(width, top - 11), (width + 1, top + 1), (0, top + 4)]), colour, 2)
    for x in (-0.6, -0.2, 0.2, 0.6):
        easel.stroke([(x * width, top - 9.5), (x * width, top + 1.5)], easel.outline, 0.5)
    easel.stroke(
        [(-width - 0.5, top - 4.5), (0, top - 3.5), (width + 0.5, top - 4.5)], easel.outline, 0.8
    )


def neckline(width: float, top: float, depth: float, is_pointed: bool) -> list[Point]:
    """Return the neck's opening from the right shoulder down and up to the left.

    The last point is the nape.
    """
    if is_pointed:
        curve: list[Point] = [(width, top - 2), (0, top + depth), (-width, top - 2)]
    else:
        shares = [step / 6 for step in range(-6, 7)]
        curve = [(-width * share, top - 2 + (depth + 1) * (1 - share * share)) for share in shares]
    return [*curve, (0, top - 0.5)]


def collar_flap(neck: str, width: float, top: float, depth: float) -> list[Point]:
    """Return the right flap of a collar by the half width, top and depth of the opening."""
    if neck == "shirt collar":
        return [
            (width - 1.5, top - 4.5),
            (width + 2, top - 1),
            (width + 1.5, top + 8.5),
            (0.5, top + depth),
        ]

    if neck == "band collar":
        return [
            (width - 1, top - 6),
            (width + 0.5, top - 1),
            (0.4, top + depth + 0.5),
            (0.4, top + depth - 4.5),
        ]

    outside: list[Point] = [(width + 0.5, top - 3), (width + 4.5, top + 9), (width + 1, top + 10.5)]
    return [*outside, (0.5, top + depth + 3), (width - 2, top + 4)]


def paint_hood(easel: Easel, frame: Frame) -> None:
    width, top = frame.neck_width, frame.top
    right: list[Point] = [
        (0, top - 19),
        (width + 1, top - 18),
        (width + 6, top - 5),
        (width + 4, top + 3),
    ]
    easel.part(symmetric(right), radius=6)

    inside: list[Point] = [
        (0, top - 13),
        (width - 2, top - 12),
        (width, top - 3),
        (width - 2, top + 5),
    ]
    easel.patch(symmetric(inside), easel.lining, 4, easel.outline)


# ---- what is sewn onto the upper body ----


def below_neck_y(product: Product, frame: Frame) -> float:
    """Return the height at which the cloth below the neck begins."""
    drops = {"V-neck": 20, "lapel collar": 24, "turtleneck": 4, "crewneck": 9}
    return frame.top + drops.get(product.neck, 7) * max(frame.scale, 0.8)


def paint_front_edge(easel: Easel, frame: Frame, product: Product) -> None:
    top = below_neck_y(product, frame)
    if product.garment == "shirt":
        easel.patch(rectangle(-2, top, 2, frame.hem + 1), easel.base)
        buttons(easel, (0, top + 4), (0, frame.hem - 10), count=5, radius=1.0)
    else:
        easel.stroke([(0, top), (0, frame.hem + 1)], easel.outline, 1.2)


def paint_detail(easel: Easel, frame: Frame, product: Product) -> None:
    below_neck, size = below_neck_y(product, frame), max(frame.scale, 0.8)
    # A detail that is part of a sleeve or a neck is painted with that.
    match product.detail:
        case "bow":
            bow(easel, (0, below_neck + 3), 1.0)
        case "chest pocket":
            pocket(easel, (4, frame.top + 16 * size), (9.5, 10.5))
        case "contrast trim":
            sew_hem(easel, frame, lift=4 if product.garment == "shirt" else 0)
        case "buttons":
            columns = (-4.5, 4.5) if product.garment == "coat" else (0.0,)
            placket(easel, columns[-1] + 3.2, below_neck, frame.hem + 1)
            for x in columns:
                buttons(easel, (x, below_neck + 4), (x, frame.hem - 6), count=5)
        case "zip":
            zip_line(easel, (0, below_neck - 1), (0, frame.hem + 0.5))
        case "belt":
            belt(easel, frame.waist, frame.waist_width + 0.8)
        case "kangaroo pocket":
            hem = frame.hem - 6
            shape: list[Point] = [(0, hem - 16), (7, hem - 16), (13, hem - 6), (13, hem), (0, hem)]
            easel.patch(symmetric(shape), easel.base, 1, easel.contrast, 1.2)


def sew_hem(easel: Easel, frame: Frame, lift: float) -> None:
    """Trim the hem; ``lift`` is how much higher a shirt tail ends at the sides."""
    width, hem = frame.hem_width, frame.hem
    band: list[Point] = [
        (0, hem - 3.5),
        (width * 0.5, hem - 3.5),
        (width, hem - 4 - lift),
        (width, hem - lift),
    ]
    easel.patch(symmetric([*band, (width * 0.5, hem + 1), (0, hem + 1)]), easel.contrast)

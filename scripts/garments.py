"""The silhouettes of the sample's products: each caption attribute is one shape that a person can
point at.

`draw_product` is the door. Clothes for the upper body are painted in `upper`, all else here.
Coordinates are those of `fabric`. One picture costs about 20 ms on one core.
"""

from collections.abc import Callable
from random import Random

from PIL import Image

from scripts.fabric import (
    BLACK,
    CREAM,
    Easel,
    Point,
    between,
    circle,
    flip,
    mix,
    rectangle,
    symmetric,
)
from scripts.haberdashery import belt, bow, buckle, buttons, placket, pocket, tassel, zip_line
from scripts.products import Product
from scripts.upper import FRAMES, paint_upper


def draw_product(product: Product, random: Random) -> Image.Image:
    """Return the picture of a product, 96 pixels square.

    The generator varies pose, light and wall.
    """
    easel = Easel(product.colour, product.pattern, random)
    PAINTERS[product.garment](easel, product)
    return easel.finish()


# ---- skirts, trousers, shorts ----

SKIRT_CUTS = {"mini": (26.0, 64.0, 23.0), "midi": (16.0, 76.0, 25.0), "maxi": (7.0, 91.0, 28.0)}


def paint_skirt(easel: Easel, product: Product) -> None:
    top, hem, width = SKIRT_CUTS[product.cut]
    easel.centre(top, hem)
    hip = top + 16

    # The cloth, and the folds that it falls in.
    right: list[Point] = [
        (0, top),
        (12, top),
        (17, hip),
        (width, hem - 1),
        (width * 0.5, hem + 1.5),
        (0, hem + 2),
    ]
    easel.part(symmetric(right), radius=4)
    for x in (-0.6, -0.15, 0.3, 0.7):
        easel.fold([(14 * x, hip), (width * x, hem - 1)], width=2)

    if product.detail == "pleats":
        for step in range(-4, 5):
            easel.stroke(
                [(step * 2.7, top + 4), (step * width / 4.6, hem + 0.5)], easel.contrast, 0.9
            )
    if product.detail == "contrast trim":
        band: list[Point] = [
            (0, hem - 4),
            (width * 0.5, hem - 4.5),
            (width - 0.8, hem - 6),
            (width, hem - 1),
        ]
        easel.patch(symmetric([*band, (width * 0.5, hem + 1.5), (0, hem + 2)]), easel.contrast)
    if product.detail == "buttons":
        placket(easel, 3.2, top + 3, hem + 1.5)
        buttons(easel, (0, top + 9), (0, hem - 5), count=5)

    waistband(easel, top, 12, product.detail)


def waistband(easel: Easel, top: float, width: float, detail: str) -> None:
    colour = easel.contrast if detail == "contrast trim" else easel.base
    easel.patch(symmetric([(width, top - 1), (width + 1, top + 3.5)]), colour, 0.5, easel.outline)
    if detail == "belt":
        belt(easel, top + 1.5, width + 1.2, 4.6)
    if detail == "bow":
        bow(easel, (0, top + 3), 1.1)


# cut → (knee, outer width at the hem, inner gap at the hem, hem)
LEG_CUTS = {
    "slim leg": (13.0, 12.5, 5.5, 91.0),
    "wide leg": (19.0, 25.0, 3.0, 91.0),
    "cropped": (15.5, 16.0, 4.0, 68.0),
}
SHORT_CUTS = {"short": (18.0, 20.0, 2.0, 48.0), "knee length": (18.5, 20.0, 2.5, 66.0)}


def paint_legs(easel: Easel, product: Product) -> None:
    is_short = product.garment == "shorts"
    knee_width, hem_width, gap, hem = (SHORT_CUTS if is_short else LEG_CUTS)[product.cut]
    top = 20.0 if is_short else 8.0
    easel.centre(top, hem, zoom=1.35 if is_short else 1.0)
    crotch, knee = top + 21, (top + 21 + hem) / 2

    right: list[Point] = [
        (0, top),
        (13, top),
        (17, top + 14),
        (knee_width, knee),
        (hem_width, hem),
        (gap, hem + 0.5),
    ]

    leg = [*right, (gap * 0.6, knee), (0, crotch)]
    for side, angle in ((leg, 3), (flip(leg), -3)):
        easel.part(side, radius=2.5, angle=angle)
        easel.fold([(side[3][0] * 0.55, crotch + 3), (side[4][0] * 0.62, hem - 4)])
        if product.detail == "contrast trim":
            cuff = [
                side[4],
                side[5],
                between(side[5], side[6], 0.22),
                between(side[4], side[3], 0.22),
            ]
            easel.patch(cuff, easel.contrast)

    # The seam, the slanted pockets of all, and those of some.
    easel.stroke([(0, top + 3), (0, crotch)], easel.outline, 1.1)
    for x in (1, -1):
        easel.stroke([(x * 8, top + 4), (x * 15, top + 11)], easel.outline, 1.1)
    if product.detail == "cargo pockets":
        height = crotch + (2 if is_short else 8)
        for left in (4.5, -14.5):
            pocket(easel, (left, height), (10, 11))

    waistband(easel, top, 13, product.detail)


# ---- bags ----


def paint_handbag(easel: Easel, product: Product) -> None:
    if product.cut == "top handle":
        easel.stroke(arch(11, 40, 20), easel.outline, 5)
        easel.stroke(arch(11, 40, 20), easel.base, 3.2)
    else:
        easel.stroke(arch(22, 46, 42), easel.outline, 2.8)
        easel.stroke(arch(22, 46, 42), easel.base, 1.4)

    easel.part(symmetric([(0, 40), (24, 40), (30, 82), (0, 83)]), radius=5)
    flap = [(0.0, 40.0), (24.5, 40.0), (26, 52), (14, 58), (0, 59)]
    if product.detail != "bow":
        easel.part(symmetric(flap), radius=3)

    if product.detail == "bow":
        bow(easel, (0, 55), 1.6)
    elif product.detail == "buckle":
        easel.patch(rectangle(-3.5, 42, 3.5, 66), easel.contrast, 1)
        buckle(easel, (0, 59), 4.6)
    elif product.detail == "tassel":
        tassel(easel, (0, 58))
    elif product.detail == "contrast trim":
        easel.stroke([point for point in symmetric(flap) if point[1] > 40], easel.contrast, 3)
        easel.patch(symmetric([(0, 78), (29.3, 77), (30, 82), (0, 83)]), easel.contrast)


def arch(width: float, foot: float, height: float) -> list[Point]:
    """Return a handle: a half ellipse that stands on ``foot``."""
    shares = [step / 10 for step in range(-10, 11)]
    return [(width * share, foot + 1 - height * (1 - share * share) ** 0.5) for share in shares]


def paint_backpack(easel: Easel, product: Product) -> None:
    for x in (1, -1):
        strap = [(x * 20, 34), (x * 29, 42), (x * 30, 70), (x * 24, 82)]
        easel.stroke(strap, easel.outline, 5.5)
        easel.stroke(strap, easel.base, 4)
    easel.stroke(arch(7, 16, 10), easel.outline, 4.4)
    easel.stroke(arch(7, 16, 10), easel.base, 2.6)

    easel.part(symmetric([(0, 13), (15, 14), (23, 28), (24, 86), (0, 88)]), radius=8)
    if product.cut == "flap top":
        easel.part(symmetric([(0, 12), (17, 14), (25, 28), (24, 44), (0, 48)]), radius=7, angle=8)
    else:
        easel.stroke([(x * 0.88, y + 11) for x, y in arch(23, 32, 18)], easel.contrast, 1.5)

    if product.detail == "front pocket":
        pocket(easel, (-15, 56), (30, 25))
    elif product.detail == "buckle":
        for x in (-10, 10):
            easel.patch(rectangle(x - 2.6, 34, x + 2.6, 72), easel.contrast, 1)
            buckle(easel, (x, 54), 3.8)
    elif product.detail == "zip":
        zip_line(easel, (-18, 62), (18, 62))
    elif product.detail == "contrast trim":
        easel.patch(
            symmetric([(0, 75), (24, 74), (24, 84), (19, 87.5), (0, 88)]), easel.contrast, 2
        )


# ---- shoes, seen from the side, toe at the right ----


def paint_sneaker(easel: Easel, product: Product) -> None:
    is_high = product.cut == "high top"
    top = 22.0 if is_high else 40.0
    easel.centre(top, 84)
    collar: list[Point] = (
        [(-33, top), (-6, top + 1)] if is_high else [(-36, top), (-22, top + 7), (-8, top + 2)]
    )
    easel.part([*collar, (5, 50), (28, 59), (40, 66), (41, 76), (-36, 76), (-37, 56)], radius=5)

    toe: list[Point] = [(24, 60), (37, 63), (42, 70), (41, 77), (23, 77)]

    # The sole lies over what is trimmed.
    easel.patch(toe, easel.contrast if product.detail == "contrast trim" else CREAM, 3)
    if product.detail == "contrast trim":
        easel.patch([(-37, 54), (-27, 58), (-25, 77), (-37, 77)], easel.contrast, 2)
    easel.patch(
        [(-38, 75), (42, 75), (43, 80), (39, 84), (-35, 84), (-39, 80)], CREAM, 2.5, BLACK, 1
    )
    easel.stroke([(-36, 79.5), (40, 79.5)], mix(CREAM, BLACK, 0.5), 0.8)
    fasten(easel, product.detail, [(-7, top + 5), (17, 57)], -15.0)


def fasten(easel: Easel, detail: str, slope: list[Point], reach: float) -> None:
    """Draw what closes a shoe along its slope, from the ankle towards the toe."""
    if detail == "laces":
        easel.stroke(slope, easel.lining, 3)
        for step in range(5):
            x, y = between(slope[0], slope[1], step / 4)
            easel.stroke([(x + 2, y - 1), (x + reach * 0.55, y + 4)], BLACK, 3.0)
            easel.stroke([(x + 2, y - 1), (x + reach * 0.55, y + 4)], CREAM, 2.0)

    elif detail == "strap":
        for share in (0.2, 0.75):
            x, y = between(slope[0], slope[1], share)
            easel.patch(
                [(x - 2, y - 3), (x + 5, y), (x + reach, y + 15), (x + reach - 7, y + 11)],
                easel.contrast,
                1.2,
            )

    elif detail == "zip":
        zip_line(easel, (-22, slope[0][1] + 1), (-22, 73))


BOOT_TOPS = {"ankle": 42.0, "knee high": 8.0}


def paint_boot(easel: Easel, product: Product) -> None:
    top = BOOT_TOPS[product.cut]
    easel.centre(top, 91)
    shaft: list[Point] = [
        (-28, top),
        (-2, top),
        (-3, 56),
        (14, 62),
        (33, 68),
        (37, 80),
        (-26, 80),
        (-26, 60),
    ]
    easel.part(shaft, radius=5)
    easel.fold([(-22, 60), (-6, 57)])

    sole: list[Point] = [(-27, 79), (38, 79), (38, 83.5), (-6, 83.5), (-9, 91), (-27, 91)]
    easel.patch(sole, mix(easel.base, BLACK, 0.75), 0.8, BLACK)

    if product.detail == "bow":
        bow(easel, (-14, top + 9), 1.15)
    elif product.detail == "buckle":
        y = 62.0 if product.cut == "ankle" else 40.0
        easel.patch(rectangle(-27, y - 3, -2, y + 3), easel.contrast, 1)
        buckle(easel, (-14, y), 4.6)
    elif product.detail == "contrast trim":
        easel.patch(rectangle(-29, top - 1, -1, top + 7), easel.contrast, 1)
    else:
        fasten(easel, product.detail, [(-4, top + 6), (8, 62)], -15.0)


# ---- caps and scarves ----


def paint_cap(easel: Easel, product: Product) -> None:
    trim = easel.contrast if product.detail == "contrast trim" else easel.base

    if product.garment == "beanie":
        if product.detail == "pompom":
            easel.patch(circle((0, 16), 10), easel.contrast)
        easel.part(symmetric([(0, 22), (17, 24), (29, 42), (29, 72), (0, 73)]), radius=13)
        easel.patch(symmetric([(0, 61), (30, 60), (31, 76), (0, 78)]), trim, 3, easel.outline, 1.1)
        for step in range(-6, 7):
            easel.stroke([(step * 4.5, 63), (step * 4.6, 76)], mix(trim, BLACK, 0.5), 0.6)
    else:
        easel.part(
            [(-34, 64), (-33, 40), (-18, 24), (2, 22), (18, 30), (25, 48), (26, 63), (-5, 66)],
            radius=9,
        )
        for seam in ([(-4, 23), (-14, 40), (-15, 64)], [(-4, 23), (11, 38), (14, 63)]):
            easel.stroke(seam, easel.outline, 0.9)
        easel.patch(
            [(-2, 63), (25, 59), (40, 64), (46, 73), (30, 70), (4, 70)], trim, 5, easel.outline, 1.1
        )
        easel.patch(circle((-4, 22.5), 2.2), trim)

    if product.detail == "bow":
        bow(easel, (0, 54) if product.garment == "beanie" else (0, 50), 1.4)
    elif product.detail == "buckle":
        easel.patch([(-33, 55), (26, 55), (26, 62), (-33, 63)], easel.contrast, 1)
        buckle(easel, (-2, 58.5), 5)


def paint_scarf(easel: Easel, product: Product) -> None:
    foot = {"short": 56.0, "long": 84.0}[product.cut]
    easel.centre(8, foot + 6)
    paint_scarf_end(easel, [(-13, 26), (3, 30), (2, foot - 5), (-16, foot - 6)], 4, product.detail)
    paint_scarf_end(easel, [(-2, 28), (14, 24), (19, foot), (2, foot + 1)], -8, product.detail)

    # The loop around the neck lies over both ends.
    easel.part(
        [(-24, 14), (-10, 8), (10, 8), (24, 14), (22, 27), (8, 36), (-8, 36), (-22, 27)],
        radius=7,
        angle=14,
    )
    easel.patch([(-12, 13), (0, 11), (12, 13), (8, 18), (-8, 18)], easel.lining, 3, easel.outline)
    for points in ([(-20, 20), (0, 27), (20, 20)], [(-17, 26), (2, 32), (17, 27)]):
        easel.fold(points)


def paint_scarf_end(easel: Easel, corners: list[Point], angle: int, detail: str) -> None:
    """Draw a hanging end; its corners run from the upper left clockwise."""
    upper_left, upper_right, right, left = corners
    easel.part(corners, radius=2, angle=angle)
    if detail == "contrast trim":
        easel.patch(
            [left, right, between(right, upper_right, 0.16), between(left, upper_left, 0.16)],
            easel.contrast,
        )

    for step in range(8):
        x, y = between(left, right, (step + 0.5) / 8)
        if detail == "fringe":
            easel.stroke([(x, y), (x, y + 7.5)], easel.contrast if step % 2 else easel.base, 1.3)
        elif detail == "pompom" and step % 3 == 1:
            easel.patch(circle((x, y + 2.5), 3.4), easel.contrast)


PAINTERS: dict[str, Callable[[Easel, Product], None]] = {
    **dict.fromkeys(FRAMES, paint_upper),
    "skirt": paint_skirt,
    "trousers": paint_legs,
    "shorts": paint_legs,
    "handbag": paint_handbag,
    "backpack": paint_backpack,
    "sneaker": paint_sneaker,
    "boot": paint_boot,
    "cap": paint_cap,
    "beanie": paint_cap,
    "scarf": paint_scarf,
}

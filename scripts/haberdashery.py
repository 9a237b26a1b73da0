"""What is sewn onto the sample's products: bows, pockets, belts, buckles, buttons, zips, tassels.

Each is a few patches in the contrast colour, large enough to be seen at 64 px, and costs about 1 ms
on one core.
"""

from scripts.fabric import BLACK, GOLD, SILVER, Easel, Point, between, circle, mix, rectangle


def bow(easel: Easel, centre: Point, scale: float) -> None:
    x, y = centre
    for side in (1, -1):
        tail: list[Point] = [(0, 0), (5.5, 8.5), (2.2, 9.5)]
        loop: list[Point] = [(0, 0), (5, -4.5), (9, -4), (9, 4), (5, 4.5)]
        for shape, radius in ((tail, 0.0), (loop, 2.0)):
            easel.patch(
                [(x + side * px * scale, y + py * scale) for px, py in shape],
                easel.contrast,
                radius,
            )

    knot = 2.1 * scale
    easel.patch(rectangle(x - knot, y - knot, x + knot, y + knot), easel.contrast, 1)


def pocket(easel: Easel, corner: Point, size: tuple[float, float]) -> None:
    (left, top), (width, height) = corner, size
    right, bottom = left + width, top + height
    shape = [
        (left, top),
        (right, top),
        (right, bottom - 2),
        (left + width / 2, bottom),
        (left, bottom - 2),
    ]
    easel.patch(shape, mix(easel.base, BLACK, 0.12), 0, easel.contrast, 1.2)
    easel.stroke([(left, top + 2.6), (right, top + 2.6)], easel.contrast, 1.0)


def belt(easel: Easel, y: float, width: float, height: float = 4.0) -> None:
    easel.patch(rectangle(-width, y - height / 2, width, y + height / 2), easel.contrast, 0.5)
    buckle(easel, (0, y), height / 2 + 1)


def buckle(easel: Easel, centre: Point, radius: float) -> None:
    x, y = centre
    for size, colour in ((radius, GOLD), (radius - 1.4, easel.contrast)):
        easel.patch(rectangle(x - 1.15 * size, y - size, x + 1.15 * size, y + size), colour, 0.6)


def buttons(easel: Easel, first: Point, last: Point, count: int, radius: float = 2.1) -> None:
    for step in range(count):
        easel.patch(
            circle(between(first, last, step / (count - 1)), radius), easel.contrast, width=1.0
        )


def placket(easel: Easel, half_width: float, top: float, bottom: float) -> None:
    """Lay a plain strip under buttons: among printed dots nobody would find them."""
    easel.patch(rectangle(-half_width, top, half_width, bottom), easel.base, edge=easel.outline)


def zip_line(easel: Easel, start: Point, end: Point) -> None:
    easel.stroke([start, end], BLACK, 5.0)
    easel.stroke([start, end], SILVER, 3.6)
    teeth = 14
    for step in range(1, teeth):
        x, y = between(start, end, step / teeth)
        across = (1.4, 0) if abs(end[1] - start[1]) > abs(end[0] - start[0]) else (0, 1.4)
        easel.stroke([(x - across[0], y - across[1]), (x + across[0], y + across[1])], BLACK, 0.5)
    x, y = between(start, end, 0.08)
    easel.patch(rectangle(x - 1.6, y, x + 1.6, y + 6), GOLD, 0.8)


def tassel(easel: Easel, hook: Point) -> None:
    x, y = hook
    easel.patch(
        [(x - 3, y + 3), (x + 3, y + 3), (x + 6.5, y + 22), (x - 6.5, y + 22)], easel.contrast
    )
    for step in (-2, 0, 2):
        easel.stroke([(x + step * 0.7, y + 10), (x + step * 1.7, y + 21.5)], easel.base, 0.7)
    easel.patch(circle((x, y + 2), 3.6), GOLD)

"""What is wrong with how a workflow lies on the page, from what tests/browser/layout.mjs measured."""

from __future__ import annotations

from itertools import combinations, pairwise

Point = tuple[float, float]


def overlaps(seen: dict) -> list[str]:
    """Pairs of nodes whose boxes lie on each other."""
    pairs = combinations(seen["boxes"].items(), 2)
    return [f"{_title(seen, a)} and {_title(seen, b)}" for (a, one), (b, other) in pairs if _share_area(one, other)]


def half_in_groups(seen: dict) -> list[str]:
    """Nodes that stick out of a group's frame."""
    return [
        f"{_title(seen, node)} and {title}"
        for node, box in seen["boxes"].items()
        for title, frame in seen["groups"].items()
        if _share_area(box, frame) and not _encloses(frame, box)
    ]


def backward(seen: dict) -> list[str]:
    """Links that end left of their start."""
    return [_name(seen, link) for link in seen["links"] if link[3][0] < link[2][0]]


def crossings(seen: dict) -> list[str]:
    """Pairs of links that cross where no box hides it. Those of one node, which fan out, are no pair."""
    curves = [(link, _curve(*link[2:])) for link in seen["links"]]
    found = []
    for (one, first), (other, second) in combinations(curves, 2):
        if not {*one[:2]} & {*other[:2]} and _cross(first, second, seen["boxes"].values()):
            found.append(f"{_name(seen, one)} and {_name(seen, other)}")
    return found


def _title(seen: dict, node: str | int) -> str:
    return seen["titles"][str(node)]


def _name(seen: dict, link: list) -> str:
    return f"{_title(seen, link[0])} -> {_title(seen, link[1])}"


def _share_area(one: list[float], other: list[float], slack: float = 1) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] - slack and other[axis] < one[axis] + one[axis + 2] - slack
        for axis in (0, 1)
    )


def _encloses(frame: list[float], box: list[float]) -> bool:
    return all(
        frame[axis] <= box[axis] and box[axis] + box[axis + 2] <= frame[axis] + frame[axis + 2] for axis in (0, 1)
    )


def _curve(start: Point, end: Point, pieces: int = 24) -> list[Point]:
    """The page's spline: it leaves and arrives level, a quarter of the distance long."""
    reach = ((start[0] - end[0]) ** 2 + (start[1] - end[1]) ** 2) ** 0.5 / 4
    xs = (start[0], start[0] + reach, end[0] - reach, end[0])
    ys = (start[1], start[1], end[1], end[1])
    return [(_bezier(xs, piece / pieces), _bezier(ys, piece / pieces)) for piece in range(pieces + 1)]


def _bezier(points: tuple[float, ...], t: float) -> float:
    weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    return sum(weight * point for weight, point in zip(weights, points, strict=True))


def _cross(first: list[Point], second: list[Point], boxes) -> bool:
    for a, b in pairwise(first):
        for c, d in pairwise(second):
            if _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0:
                middle = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
                if not any(_holds(box, middle) for box in boxes):
                    return True
    return False


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _holds(box: list[float], point: Point) -> bool:
    return all(box[axis] <= point[axis] <= box[axis] + box[axis + 2] for axis in (0, 1))

"""The tables of gpu.py: all figures of a card, and the goals beside them."""

from __future__ import annotations

import operator
from dataclasses import dataclass

COLUMNS = {
    "semantic": "semantic step, s",
    "rate": "TFLOP a second in it",
    "detail": "detail step, s",
    "ratio": "detail / semantic",
    "run": "4 steps, s",
    "stock": "beside it, s",
    "overhead": "DCM KSampler / SamplerCustom",
    "gain": "times faster",
    "many_calculated": "50 guided steps, s, calculated",
    "peak": "peak, GiB",
    "difference": "video differs by",
    "load_cold": "load from disk, s",
    "load_warm": "again, s",
    "compiling": "compiling, s",
    "chosen": "attention chosen",
}
GOALS_ARE_FOR = "H200"


@dataclass(frozen=True)
class Goal:
    what: str
    variant: str
    figure: str
    sign: str
    bound: float
    parts: tuple[str, ...]

    def verdict(self, row: dict, card: str) -> str:
        if self.figure not in row or not row.get("complete"):
            return "not measured"
        if GOALS_ARE_FOR not in card:
            return f"no goal for this card: they are an {GOALS_ARE_FOR}'s"
        compare = operator.le if self.sign == "<=" else operator.ge
        return "met" if compare(row[self.figure], self.bound) else "missed"


EVERY = ("wan1.3b", "hunyuan544", "hunyuan720", "wan14b", "cogvideox5b")
GOALS = (
    Goal("detail / semantic step", "experts", "ratio", "<=", 1.01, EVERY),
    Goal("DCM KSampler / SamplerCustom", "experts", "overhead", "<=", 1.005, EVERY),
    Goal("detail / semantic step, 24 GB", "24 GB", "ratio", "<=", 1.02, EVERY),
    Goal("detail / semantic step, 12 GB", "12 GB", "ratio", "<=", 1.02, EVERY),
    Goal("times faster with DCM Attention", "attention", "gain", ">=", 1.3, ("wan1.3b",)),
    Goal("times faster with DCM Attention", "attention", "gain", ">=", 1.45, ("hunyuan720",)),
    Goal("4 steps with DCM Attention, s", "attention", "run", "<=", 2.4, ("wan1.3b",)),
    Goal("4 steps with DCM Attention, s", "attention", "run", "<=", 88, ("hunyuan720",)),
    Goal("4 steps with DCM Attention, s", "attention", "run", "<=", 12, ("wan14b",)),
    Goal("4 steps compiled, s", "compiled", "run", "<=", 2.25, ("wan1.3b",)),
    Goal("times faster than 50 guided steps", "guided", "gain", ">=", 24.8, ("wan1.3b", "wan14b")),
    Goal("times faster than 50 guided steps", "guided", "gain", ">=", 12.4, ("hunyuan544", "hunyuan720")),
)


def as_markdown(record: dict) -> str:
    """All figures, then the goals. ``record``: what gpu.py writes as JSON; a row may have a ``note``, added by hand,
    which goes when it is measured anew."""
    card, parts = record["card"], record["parts"]
    figures = [["part", "variant", *COLUMNS.values(), ""]]
    for name, variants in parts.items():
        for variant, row in variants.items():
            state = row.get("failed") or ("" if row.get("complete") else "broken off")
            figures.append([name, variant, *(str(row.get(figure, "")) for figure in COLUMNS), state])
    goals = [["goal", "part", "bound", "measured", ""]]
    for goal in GOALS:
        for part in goal.parts:
            row = parts.get(part, {}).get(goal.variant, {})
            measured = str(row.get(goal.figure, ""))
            goals.append([goal.what, part, f"{goal.sign} {goal.bound}", measured, goal.verdict(row, card)])
    notes = [
        f"* {name}, {variant}: {row['note']}"
        for name, variants in parts.items()
        for variant, row in variants.items()
        if "note" in row
    ]
    rows = [row["versions"] for variants in parts.values() for row in variants.values()]
    versions = {", ".join(f"{what} {number}" for what, number in row.items()) for row in rows}
    about = f"{card}; {'; '.join(sorted(versions))}. `python benchmarks/gpu.py`; random weights."
    return "\n\n".join([table(figures), table(goals), about, *(["\n".join(notes)] if notes else [])]) + "\n"


def table(rows: list[list[str]]) -> str:
    head, *others = ("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *others])

"""Looking families up by name: every module of this folder that holds some is known, without a table to edit."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..schedule.experts import ExpertSchedule, Midpoint, Threshold
from .family import Family


def _discovered() -> dict[str, Family]:
    package = __name__.rpartition(".")[0]
    modules = (
        import_module(f".{found.name}", package)
        for found in iter_modules(import_module(package).__path__)
        if f"{package}.{found.name}" != __name__
    )
    families = [family for module in modules for family in getattr(module, "FAMILIES", ())]
    return {family.name: family for family in families}


FAMILIES: dict[str, Family] = _discovered()


def find_family(name: str) -> Family:
    """The family of that name. Raises ValueError naming those that are known."""
    if name not in FAMILIES:
        raise ValueError(f"family {name!r} is unknown: known are {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def preset(name: str, rule: str = "aligned") -> ExpertSchedule:
    """The schedule of a backbone family: "aligned", as this project makes experts, or "official", as published.

    Raises ValueError for an unknown family or rule, and for "official" where no weights were published.
    """
    family = find_family(name)
    if rule == Midpoint.rule:
        return family.schedule
    if rule != Threshold.rule:
        raise ValueError(f'rule {rule!r} is unknown: choose "aligned" or "official".')
    if family.published_schedule is None:
        raise ValueError(f'family {name!r} has no published weights and so no "official" schedule: use "aligned".')
    return family.published_schedule

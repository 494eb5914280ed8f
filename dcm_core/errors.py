"""The two errors of files, and how they list names. The ground floor: what reads bytes need not know experts."""

from collections.abc import Collection


class ExpertFileError(ValueError):
    """The file is no usable expert, or not one for this backbone. The message says why and what to do."""


class LayoutError(ValueError):
    """The file is no backbone that can be read. The message says what it looks like and what to do."""


def shortened(names: Collection[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

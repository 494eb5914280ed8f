"""What came out of a preparation: for the eye, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dcm_core.files.atomic import atomic_write

from ..words import many, span
from .clips import Clip
from .filters import REASONS, Dropped

_LISTED = 5  # of each reason, in the text; the JSON has all


@dataclass(frozen=True)
class Summary:
    """``clips``: that are in the cache. ``files``: that were looked at. ``captions``, ``prompts``: that are
    embedded. ``dry_run``: nothing was encoded."""

    files: int
    clips: Sequence[Clip]
    dropped: Sequence[Dropped]
    captions: int
    prompts: int
    dry_run: bool

    @property
    def seconds(self) -> float:
        return sum(clip.size.frames / clip.fps for clip in self.clips if not clip.source.still)

    def buckets(self) -> dict[str, int]:
        counted = Counter(clip.size for clip in self.clips)
        return {str(size): count for size, count in sorted(counted.items(), reverse=True)}

    def text(self) -> str:
        """A few lines."""
        stills = sum(clip.source.still for clip in self.clips)
        moving = len(self.clips) - stills
        lasting = f" ({span(self.seconds)})" if moving else ""
        looked_at = (
            f"{many(self.files, 'file')}: {many(moving, 'clip')}{lasting} and {many(stills, 'image')}, "
            f"{many(self.captions, 'caption')} and "
        )
        texts = f"{many(self.prompts, 'prompt')} {'to embed' if self.dry_run else 'embedded'}"
        lines = [f"{looked_at if self.files else ''}{texts}"]
        lines += [f"  {'size':>16}  clips"] if self.clips else []
        lines += [f"  {size:>16}  {count}" for size, count in self.buckets().items()]
        lines += [f"dropped: {len(self.dropped) or 'nothing'}"] if self.files or self.dropped else []
        for reason in REASONS:
            same = [each for each in self.dropped if each.reason == reason]
            lines += [f"  {reason}: {len(same)}"] if same else []
            lines += [f"    {each.source}: {each.detail}" for each in same[:_LISTED]]
            lines += [f"    and {len(same) - _LISTED} more, in summary.json"] if len(same) > _LISTED else []
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Raises OSError with the remedy."""
        values = {
            "files": self.files,
            "clips": len(self.clips),
            "hours": round(self.seconds / 3600, 4),
            "captions": self.captions,
            "prompts": self.prompts,
            "buckets": self.buckets(),
            "dropped": [asdict(each) for each in self.dropped],
        }
        with atomic_write(folder / "summary.json") as file:
            file.write(json.dumps(values, indent=1).encode("ascii"))
        with atomic_write(folder / "summary.txt") as file:
            file.write(self.text().encode("utf-8", "backslashreplace") + b"\n")

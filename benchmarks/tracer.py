"""A tracer of a project's own functions: which are entered, from which, and how often. See path.py for its counts."""

from __future__ import annotations

import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

# The frames of these are parts of the function around them, or of an import.
PARTS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<module>"}


class Tracer:
    """Follows calls into the files of some folders of a root; whatever runs between two of them is looked through."""

    def __init__(self, root: Path, *folders: str):
        self.root = root
        self.prefixes = tuple(f"{root / folder}{os.sep}" for folder in folders)
        self.until: CodeType | None = None
        self.functions: set[tuple[str, CodeType]] = set()
        self.turns: Counter[tuple[CodeType | None, CodeType]] = Counter()
        self.calls = 0
        self._generators: set[FrameType] = set()

    def run(self, path: Callable[[], Any], until: CodeType | None = None) -> Any:
        """What `path` returns. Its calls are seen until a function of the code `until` returns for the first time."""
        self.until = until
        sys.setprofile(self._see)
        try:
            return path()
        finally:
            sys.setprofile(None)

    def counts(self) -> dict[str, Any]:
        """The five counts; ``entered``, the files; and ``often``, how many entries the ten busiest turns are."""
        files = sorted({file for file, _ in self.functions})
        return {
            "files": len(files),
            "functions": len(self.functions),
            "turns": len(self.turns),
            "entries": self.turns.total(),
            "calls": self.calls,
            "entered": files,
            "often": {f"{self._name(a)} -> {self._name(b)}": n for (a, b), n in self.turns.most_common(10)},
        }

    def _name(self, code: CodeType | None) -> str:
        return f"{self._file(code)} {code.co_name}" if code else "the host"

    def _see(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "return" and code is self.until:
            sys.setprofile(None)
        if event != "call" or frame in self._generators or not (file := self._file(code)):
            return
        if code.co_flags & inspect.CO_GENERATOR:  # to go on with it later is no call
            self._generators.add(frame)
        caller = frame.f_back
        while caller and not self._file(caller.f_code):
            caller = caller.f_back
        self.calls += 1
        self.functions.add((file, code))
        if caller is None or self._file(caller.f_code) != file:
            self.turns[caller and caller.f_code, code] += 1

    def _file(self, code: CodeType) -> str | None:
        """The file that a function stands in, from the root on; None for what is none of the project's functions."""
        if code.co_name in PARTS or not code.co_filename.startswith(self.prefixes):
            return None
        return Path(code.co_filename).relative_to(self.root).as_posix()

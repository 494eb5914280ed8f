"""Messages to the user: into the log, and onto the node that says them."""

from __future__ import annotations

import logging
import re

from server import PromptServer

log = logging.getLogger("DCM")

_JOINER = "\u2060"  # no width, and no line break beside it
_LONGEST_WORD = 24  # characters that fit a narrow node; what is longer, a file's name mostly, breaks where it must


def say(node, text: str, warnings: list[str] | None = None, in_log: bool = True) -> str:
    """Log ``text`` and each warning, show them on the node in the page, and return them as one text.

    ``node`` is the running node class; without its hidden id (or without a server) the log is all there is.
    ``in_log`` False is for what another node is going to log for the same run.
    """
    if in_log:
        to_log(text, warnings)
    said = "\n".join([text, *(f"Warning: {warning}" for warning in warnings or [])])
    server, node_id = getattr(PromptServer, "instance", None), node.hidden.unique_id if node.hidden else None
    if server is not None and node_id is not None:
        server.send_progress_text(unbroken(said), node_id)
    return said


def unbroken(text: str) -> str:
    """``text`` for the page, which breaks lines at any letter: every usual word is joined into one piece."""
    return re.sub(r"\S+", lambda word: _JOINER.join(word[0]) if len(word[0]) <= _LONGEST_WORD else word[0], text)


def to_log(text: str, warnings: list[str] | None = None) -> None:
    """Log ``text`` and each warning."""
    log.info("DCM: %s", text)
    for warning in warnings or []:
        log.warning("DCM: %s", warning)

"""Interlaced video, as of broadcasts and older cameras: each frame holds two moments, one in every other line.

Networks would learn the combs of what moves. So the lines of the second moment are made anew from those of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
from av.filter import Graph

_FILTER = "bwdif", "mode=send_frame:deint=interlaced"  # as many frames as there were, at their times


def progressive(found: Iterable[Any]) -> Iterator[Any]:
    """Frames of FFmpeg's, those that are interlaced as one moment each. Others are untouched."""
    graph, kind = None, None
    for frame in found:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if kind != (kind := _kind(frame)):
            yield from _pulled(graph, None) if graph else ()
            graph = _graph(frame)
        yield from _pulled(graph, frame)
    yield from _pulled(graph, None) if graph else ()


def _kind(frame: Any) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name, frame.time_base


def _graph(frame: Any) -> Graph:
    graph = Graph()
    start = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(start, graph.add(*_FILTER), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Any, frame: Any) -> Iterator[Any]:
    """What comes out when a frame goes in; it waits for the next one. None is the end."""
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return

"""Draw web/docs/NODE.png, the pictures of the help pages, from the page of a real ComfyUI.

    python scripts/pictures.py

Needs `make hosts` and `make browser`; the newest ComfyUI is used. A picture is as the node looks there, after a run of
the workflows that need no download for the nodes in them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
WORKFLOWS = [ROOT / "workflows" / name for name in ("shapes.json", "motion.json")]
COLOURS = 256  # enough for text and a plot, and a third of the bytes


def main() -> int:
    from harness import browser
    from harness.hosts import find_hosts
    from harness.server import HostServer

    hosts = [host for host in find_hosts() if host.python]
    lacks = [*browser.missing(), *([] if hosts else ["ComfyUI (set COMFYUI_PATH and run `make hosts`)"])]
    if lacks:
        print(f"pictures: missing {', '.join(lacks)}", file=sys.stderr)
        return 1
    newest = max(hosts, key=lambda host: [int(part) for part in host.version.split(".")])
    with tempfile.TemporaryDirectory() as folder:
        server = HostServer(newest, Path(folder, "comfy"))
        server.start()
        try:
            names = browser.draw_nodes(server.address, WORKFLOWS, Path(folder))
        finally:
            server.stop()
        for name in names:
            drawn = Image.open(Path(folder, f"{name}.png")).convert("RGB")
            drawn.quantize(COLOURS, dither=Image.Dither.NONE).save(DOCS / f"{name}.png", optimize=True)
    print(f"pictures: {len(names)} nodes as they look in ComfyUI {newest.version}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT / "tests")
    sys.exit(main())

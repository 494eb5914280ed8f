"""Write locales/en/nodeDefs.json, the English texts of the nodes, as their schemas say them.

    python scripts/locales.py

The schemas need a host: the newest ComfyUI that `make hosts` has made ready. The other languages are written by hand.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def texts_of(schemas: Iterable[Any]) -> str:
    """The texts of these schemas (``comfy_api``'s ``io.Schema``) as the file holds them."""
    texts = {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                each.id: {"name": each.display_name or each.id, "tooltip": each.tooltip} for each in schema.inputs
            },
            "outputs": {
                str(number): {"name": each.display_name or each.io_type, "tooltip": each.tooltip}
                for number, each in enumerate(schema.outputs)
            },
        }
        for schema in schemas
    }
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def write_texts() -> None:
    """In the host's own process."""
    from harness import in_host

    in_host.prepare()
    pack = in_host.load_pack()

    async def schemas() -> list[Any]:
        extension = await pack.comfy_entrypoint()
        return [node.GET_SCHEMA() for node in await extension.get_node_list()]

    ENGLISH.write_text(texts_of(asyncio.run(schemas())), encoding="utf-8", newline="\n")


def main() -> int:
    from harness.hosts import find_hosts

    hosts = [host for host in find_hosts() if host.python]
    if not hosts:
        print("locales: no ComfyUI is ready: set COMFYUI_PATH and run `make hosts`", file=sys.stderr)
        return 1
    newest = max(hosts, key=lambda host: [int(part) for part in host.version.split(".")])
    with tempfile.TemporaryDirectory() as base:
        done = newest.run(__file__, "--in-host", DCM_TEST_BASE=base)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    print(f"locales: {ENGLISH.relative_to(ROOT)} is as the schemas say")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT / "tests")
    if "--in-host" in sys.argv:
        write_texts()
    else:
        sys.exit(main())

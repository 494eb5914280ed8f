"""Inside the host's own Python: the host without its server, and this pack as the host would load it."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from .hosts import ROOT

PACK = "dcm_pack"


def prepare() -> None:
    """Makes `import comfy` work on a machine without an accelerator; call it before any import of the host.

    The host reads its options while it is imported, from its own command line parser. Its folders for models, input
    and output are in DCM_TEST_BASE, or else in one that goes with this process: never those of the host itself.
    """
    import comfy.cli_args

    base = os.environ.get("DCM_TEST_BASE")
    if not base:
        base = tempfile.mkdtemp(prefix="dcm-host-")
        atexit.register(shutil.rmtree, base, ignore_errors=True)
    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = base
    import utils.extra_config  # noqa: F401  the host's own `utils`, before its nodes.py puts comfy/ in front of it


def load_pack(root: Path = ROOT) -> ModuleType:
    """This repository, or another checkout of it, as a package called `dcm_pack`: `import dcm_pack.nodes` works then.

    The host loads packs under a name made from their path; plain `import nodes` would be the host's own file.
    """
    if PACK not in sys.modules:
        entry = root / "__init__.py"
        spec = importlib.util.spec_from_file_location(PACK, entry, submodule_search_locations=[str(root)])
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    return sys.modules[PACK]

"""``python -m dcm_core.convert``, or ``python dcm_core/convert``, which a Python in isolated mode takes too."""

import sys
from pathlib import Path

if not __package__:
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = str(here.parents[1])
    else:
        sys.path.insert(0, str(here.parents[1]))

from dcm_core.convert.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

"""Get what the browser tests need: Chromium from the system, and playwright-core beside the tests.

    python scripts/browser.py

Safe to repeat. Without the means to install something it says what is missing and exits 0: the tests that
need it are skipped then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "browser"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")


def find_chromium() -> str | None:
    """A browser of the Chromium family on this machine; the variable CHROMIUM names another one."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, CHROMIUM)), None)


def missing() -> list[str]:
    """What the browser tests still lack."""
    needed = {
        "Chromium (or set CHROMIUM to its program)": find_chromium(),
        "Node.js": shutil.which("node"),
        "playwright-core (run `make browser`)": (TESTS / "node_modules" / "playwright-core").is_dir(),
    }
    return [name for name, there in needed.items() if not there]


def install_chromium() -> None:
    if find_chromium() or not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    print("browser: installing Chromium", flush=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def install_playwright() -> None:
    npm = shutil.which("npm")
    if npm is None or (TESTS / "node_modules" / "playwright-core").is_dir():
        return
    print("browser: installing playwright-core", flush=True)
    environment = os.environ | {"PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"}
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=TESTS, env=environment, check=True)


def main() -> int:
    try:
        install_chromium()
        install_playwright()
    except subprocess.CalledProcessError as error:
        print(f"browser: {error}", file=sys.stderr)
        return 1
    lacks = missing()
    print(f"browser: missing {', '.join(lacks)}; its tests will be skipped" if lacks else "browser: ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The house: who may import whom. docs/architecture.md draws it; every import of the three packages is read here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from harness.hosts import ROOT
from harness.imports import HOST_MODULES, PACKAGES, Import, files, imports

from dcm_core.schedule.speed_loras import SPEED_PRESETS

# Each floor imports only floors below it, and nothing beside it.
FLOORS = {
    "dcm_core": (
        {"__init__", "canvas", "errors", "losses", "motion", "positions"},
        {"files", "motion_plot", "schedule", "shapes"},
        {"process"},
        {"families", "sampling"},
        {"expert"},
        {"backbone"},
        {"convert"},
    ),
    "nodes": ({"ui", "backbone"}, {"experts"}, {"run"}, {"a node"}, {"__init__"}),
}
CORE_IMPORTS = {"torch", "safetensors", "PIL", "einops"}
# Looked for when they could be used, and required by nobody.
ACCELERATORS = {"flash_attn", "flash_attn_interface", "sageattention"}
# Run as files they put the root in place of their folder in sys.path, and import themselves by their full name.
COMMANDS = {
    Path("dcm_core/convert/__main__.py"),
    Path("training/ablate.py"),
    Path("training/analyze.py"),
    Path("training/distill.py"),
    Path("training/evaluate.py"),
    Path("training/paths.py"),
    Path("training/prepare.py"),
    Path("training/vbench.py"),
}
LONGEST = 300
AT_ROOT = {*PACKAGES, "benchmarks", "docs", "locales", "scripts", "tests", "web", "workflows"}

EVERY_FILE = [file for package in PACKAGES for file in files(package)]
EVERY_IMPORT = [found for package in PACKAGES for found in imports(package)]


def inside(package: str) -> list[Import]:
    """What the files of a package import from the same package."""
    return [found for found in imports(package) if package_of(found.target) == package]


def package_of(target: Path | str) -> str | None:
    return target.parts[0] if isinstance(target, Path) else None


def place(file: Path) -> str:
    """The folder of its package that a file is in, or its own name; what stands in nodes/ itself is a node."""
    name = file.parts[1].removesuffix(".py")
    return "a node" if file.parts[0] == "nodes" and len(file.parts) == 2 and name != "__init__" else name


def told(wrong: list[Import]) -> str:
    return "\n" + "\n".join(f"{found.file.as_posix()} imports {found.target}" for found in wrong)


def circle(arrows: Mapping[object, set]) -> list | None:
    """Things that lead back to the first of them along the arrows, or None."""
    done: set = set()

    def walk(thing, path: list) -> list | None:
        if thing in path:
            return [*path[path.index(thing) :], thing]
        if thing in done:
            return None
        for after in sorted(arrows.get(thing, ()), key=str):
            if found := walk(after, [*path, thing]):
                return found
        done.add(thing)
        return None

    return next(filter(None, (walk(thing, []) for thing in sorted(arrows, key=str))), None)


def arrows(found: list[Import], of: Callable[[Path], object]) -> dict[object, set]:
    drawn: dict[object, set] = {}
    for each in found:
        start, end = of(each.file), of(each.target)
        if start != end:
            drawn.setdefault(start, set()).add(end)
    return drawn


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_files(package):
    found = circle(arrows(inside(package), lambda file: file))
    assert not found, " -> ".join(file.as_posix() for file in found)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_folders(package):
    found = circle(arrows(inside(package), place))
    assert not found, f"{package}: " + " -> ".join(found)


def test_nodes_and_trainer_import_the_core_and_not_each_other():
    allowed = {"dcm_core": {"dcm_core"}, "nodes": {"nodes", "dcm_core"}, "training": {"training", "dcm_core"}}
    wrong = [
        found
        for found in EVERY_IMPORT
        if package_of(found.target) and package_of(found.target) not in allowed[found.file.parts[0]]
    ]
    assert not wrong, told(wrong)


@pytest.mark.parametrize("package", FLOORS)
def test_arrows_point_to_lower_floors(package):
    height = {name: floor for floor, names in enumerate(FLOORS[package]) for name in names}
    unknown = {place(file) for file in files(package)} - {*height}
    assert not unknown, f"{unknown} of {package}/ stand on no floor: say in this file on which"
    wrong = [
        found
        for found in inside(package)
        if (start := place(found.file)) != (end := place(found.target)) and height[start] <= height[end]
    ]
    assert not wrong, told(wrong)


def test_a_node_imports_no_other_node():
    wrong = [found for found in inside("nodes") if place(found.file) == place(found.target) == "a node"]
    assert not wrong, told(wrong)


def outside(package: str) -> Iterator[Import]:
    return (found for found in imports(package) if found.outside)


def test_the_host_is_imported_in_nodes_alone_and_heavy_libraries_in_the_trainer_alone():
    core = [found for found in outside("dcm_core") if found.outside not in CORE_IMPORTS]
    nodes = [found for found in outside("nodes") if found.outside not in CORE_IMPORTS | HOST_MODULES | ACCELERATORS]
    training = [found for found in outside("training") if found.outside in HOST_MODULES]
    assert not core + nodes + training, told(core + nodes + training)


def test_imports_inside_the_pack_are_relative():
    """A host loads the pack under a name of its own. The trainer is no part of it, and imports dcm_core by name."""
    wrong = [
        found
        for found in EVERY_IMPORT
        if package_of(found.target)
        and found.file not in COMMANDS
        and found.relative == (found.file.parts[0] == "training" and package_of(found.target) == "dcm_core")
    ]
    assert not wrong, told(wrong)


def test_only_commands_touch_the_search_path():
    touched = {file for file in EVERY_FILE if "sys.path" in (ROOT / file).read_text("utf-8")}
    assert touched <= COMMANDS


def test_files_stay_short():
    long = {
        file.as_posix(): count
        for file in EVERY_FILE
        if (count := len((ROOT / file).read_text("utf-8").splitlines())) > LONGEST
    }
    assert not long


def test_speed_presets_are_named_in_their_table_and_in_the_records_of_families_alone():
    own = {Path("dcm_core/schedule/speed_loras.py"), *files("dcm_core/families")}
    text = {file: (ROOT / file).read_text("utf-8") for file in EVERY_FILE if file not in own}
    named = {file.as_posix() for file in text if any(name in text[file] for name in SPEED_PRESETS)}
    assert not named


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "training/README.md",
        *(page.relative_to(ROOT).as_posix() for page in sorted(ROOT.glob("docs/training/*.md"))),
        "docs/architecture.md",
        "docs/architecture.svg",
        "docs/memory.md",
        "docs/nodes.md",
        "docs/pairs.md",
        "docs/performance.md",
        "docs/real_weights.md",
    ],
)
def test_every_path_that_a_page_names_is_there(page):
    """What looks like a path from the root on; a NAME in it is to be chosen, and a reader saves what it shows whole."""
    text = (ROOT / page).read_text("utf-8")
    words, shown = re.findall(r"(?<![\w./-])[\w.-]+/[\w./-]*", text), re.findall(r"```\w+\n# (\S+/\S+)\n", text)
    named = {word.rstrip(".") for word in words if word.partition("/")[0] in AT_ROOT and "NAME" not in word}
    named -= {*shown}
    missing = {name for name in named if not (ROOT / name).exists()}
    assert named and not missing, missing


def test_the_picture_shows_every_folder():
    shown = set(re.findall(r'data-path="([^"]+)"', (ROOT / "docs" / "architecture.svg").read_text("utf-8")))
    folders = {path.parent.as_posix() for path in EVERY_FILE if len(path.parts) > 2 and path.name == "__init__.py"}
    within = {folder for folder in folders if folder.count("/") > 1}  # dcm_core/shapes/weights is a part of shapes
    assert folders - within <= shown

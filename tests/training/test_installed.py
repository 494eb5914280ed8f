"""Packages that are missing or do not go together are named, with what to install."""

import builtins
import sys

import pytest

from training.distill import main
from training.installed import cannot_import


@pytest.fixture
def without(monkeypatch):
    """Makes the import of a package fail: ``without(package, error)``."""
    original = builtins.__import__

    def forbid(package: str, error: ImportError) -> None:
        def importing(name, *arguments, **keywords):
            if name.split(".")[0] == package:
                raise error
            return original(name, *arguments, **keywords)

        monkeypatch.setattr(builtins, "__import__", importing)

    return forbid


def test_an_old_peft_beside_a_new_transformers_says_what_to_install(tmp_path, without):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output: {tmp_path}\nbackbone: {{name: shapes}}\nstages: {{teacher: {{method: teacher, iterations: 1}}}}"
    )
    for name in ("adapter", "wan", "shapes"):
        __import__("sys").modules.pop(f"training.backbones.{name}", None)
    without("peft", ImportError("cannot import name 'HybridCache' from 'transformers' (/somewhere/__init__.py)"))
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(config)])
    message = str(stopped.value)
    assert message.startswith("error: The trainer's packages cannot be imported: cannot import name 'HybridCache'")
    for part in (
        "Installed are torch ",
        "peft>=0.13",
        "beside transformers 5 a peft of 0.18 or newer",
        "pip install -U",
    ):
        assert part in message
    assert "\n" not in message


def test_a_missing_pydantic_says_what_to_install(tmp_path, without, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("training.") and name != "training.distill"]:
        monkeypatch.delitem(sys.modules, name)
    without("pydantic", ImportError("No module named 'pydantic'"))
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(tmp_path / "config.yaml")])
    assert str(stopped.value).startswith("error: The trainer's packages cannot be imported: No module named 'pydantic'")


def test_the_packages_that_are_needed_are_those_of_the_requirements():
    message = cannot_import(ImportError("No module named 'peft'"))
    assert "needed are diffusers>=0.33 and peft>=0.13," in message and "requirements.txt" in message

"""scripts/hosts.py: which ComfyUI is found, where its environment is, and that the ComfyUI is only read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness.hosts import Host, load_script

hosts = load_script("hosts")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A home of its own and none of the variables, whatever this machine has."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "DCM_HOSTS", "TORCH", "PIP_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


def comfyui(folder: Path, version: str = "0.33.0", requirements: str = "torch\n") -> Path:
    """What a folder needs to pass for a ComfyUI."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "__init__.py").write_text("", "utf-8")
    (folder / "main.py").write_text("", "utf-8")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', "utf-8")
    (folder / "requirements.txt").write_text(requirements, "utf-8")
    return folder.resolve()


def made(environment: Path, requirements: str) -> Path:
    """An environment as `make hosts` leaves it, without its packages."""
    python = hosts.venv_python(environment)
    python.parent.mkdir(parents=True)
    python.write_text("", "utf-8")
    (environment / hosts.STAMP).write_text("", "utf-8")
    (environment / hosts.MADE_FROM).write_text(requirements, "utf-8")
    return python


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_the_usual_places_are_looked_into(tmp_path):
    usual = comfyui(tmp_path / "home" / "comfy" / "ComfyUI")
    other = comfyui(tmp_path / "home" / "comfy" / "hosts" / "old", "0.3.64")
    (tmp_path / "home" / "comfy" / "hosts" / "notes").mkdir()
    assert hosts.find_hosts() == [usual, other]


def test_comfyui_path_names_one_or_several(monkeypatch, tmp_path):
    comfyui(tmp_path / "home" / "comfy" / "ComfyUI")
    named = [comfyui(tmp_path / "a"), comfyui(tmp_path / "b")]
    monkeypatch.setenv("COMFYUI_PATH", hosts.os.pathsep.join(map(str, named)))
    assert hosts.find_hosts() == named


def test_a_named_folder_without_comfyui_is_refused_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert hosts.main() == 1
    assert "nowhere, which holds no ComfyUI" in capsys.readouterr().err


def test_the_environment_is_the_projects_own_and_known_by_version(tmp_path):
    cache = tmp_path / "home" / ".cache" / "dcm-video" / "hosts"
    one, same = comfyui(tmp_path / "a"), comfyui(tmp_path / "b")
    assert hosts.environment_folder(one) == hosts.environment_folder(same) == cache / "0.33.0"
    assert hosts.environment_folder(comfyui(tmp_path / "c", "0.3.64")) == cache / "0.3.64"


def test_another_folder_for_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("DCM_HOSTS", str(tmp_path / "elsewhere"))
    assert hosts.environment_folder(comfyui(tmp_path / "a")) == tmp_path / "elsewhere" / "0.33.0"


def test_a_checkout_between_releases_leaves_the_releases_environment_alone(tmp_path):
    release = comfyui(tmp_path / "release", requirements="torch\naiohttp>=3.11.8\n")
    ahead = comfyui(tmp_path / "ahead", requirements="torch\naiohttp>=3.12\n")
    python = made(hosts.environment_folder(release), hosts.requirements_of(release))
    own = hosts.environment_folder(ahead)
    assert hosts.host_python(release) == python and hosts.host_python(ahead) is None
    assert own != python.parents[1] and own.name.startswith("0.33.0-")
    made(own, hosts.requirements_of(ahead))
    assert hosts.environment_folder(ahead) == own and hosts.host_python(release) == python


@pytest.mark.parametrize("version", ["0.33.0-12-gabc1234", "v0.33.0+local"])
def test_a_version_from_git_describe_is_a_folder_of_its_own(version, tmp_path):
    assert hosts.environment_folder(comfyui(tmp_path / "a", version)).name == version


@pytest.mark.parametrize("text", ["", '__version__ = "../../elsewhere"\n'])
def test_a_version_that_cannot_be_a_folders_name_is_unknown(text, tmp_path):
    host = comfyui(tmp_path / "a")
    (host / "comfyui_version.py").write_text(text, "utf-8")
    assert hosts.host_version(host) == "unknown"
    (host / "comfyui_version.py").unlink()
    assert hosts.host_version(host) == "unknown"


def test_the_python_is_that_of_a_finished_environment_or_comfyui_python(monkeypatch, tmp_path):
    host = comfyui(tmp_path / "a")
    assert hosts.host_python(host) is None
    python = made(hosts.environment_folder(host), hosts.requirements_of(host))
    assert hosts.host_python(host) == python
    (python.parents[1] / hosts.STAMP).unlink()  # interrupted while it was made
    assert hosts.host_python(host) is None
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert hosts.host_python(host) == Path(sys.executable)


def test_nothing_is_written_into_the_comfyui(monkeypatch, tmp_path, capsys):
    host = comfyui(tmp_path / "a")
    before = everything_in(host)
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    ran = []
    monkeypatch.setattr(hosts.Environment, "pip", lambda self, *arguments: ran.append(arguments))
    monkeypatch.setattr(hosts.Environment, "ask", lambda self, code: "2.13.0+cu130 True")
    monkeypatch.setattr(
        hosts.subprocess, "run", lambda command, **_: Path(command[-1]).mkdir(parents=True, exist_ok=True)
    )
    assert hosts.main() == 0 and ran
    assert (hosts.environment_folder(host) / hosts.STAMP).is_file()
    assert everything_in(host) == before
    ran.clear()
    assert hosts.main() == 0 and not ran and "is ready" in capsys.readouterr().out


def test_running_a_host_leaves_no_bytecode_beside_its_files(monkeypatch, tmp_path):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    host = comfyui(tmp_path / "a")
    before = everything_in(host)
    done = Host(host, "0.33.0", Path(sys.executable)).run("-c", "import comfy; print(comfy.__file__)")
    assert done.returncode == 0 and str(host) in done.stdout
    assert everything_in(host) == before

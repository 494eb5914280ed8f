"""The former file survives whatever goes wrong while a new one is written."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dcm_core.files.atomic import atomic_write

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits and modes")


def test_the_new_content_takes_the_place_of_the_former(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"former")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"former"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interrupted_write_leaves_the_former_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "x.bin"
    path.write_bytes(b"former")
    with pytest.raises(type(interruption)), atomic_write(path) as file:
        file.write(b"half")
        raise interruption
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@POSIX_ONLY
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_what_the_umask_asks_for(tmp_path, umask):
    former = os.umask(umask)
    try:
        with atomic_write(tmp_path / "x.bin") as file:
            file.write(b"1")
    finally:
        os.umask(former)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "not writable"), (errno.EROFS, "read-only")],
)
def test_a_refusing_disk_is_explained(tmp_path, monkeypatch, number, word):
    path = tmp_path / "x.bin"
    path.write_bytes(b"former")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=word) as caught, atomic_write(path) as file:
        file.write(b"new")
    assert caught.value.errno == number
    assert str(path) in str(caught.value) and "former file is unchanged" in str(caught.value)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_and_a_folder_in_the_way_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it first"), atomic_write(tmp_path / "no" / "x.bin"):
        pass
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="could not write"), atomic_write(tmp_path / "taken"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


@POSIX_ONLY
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_explained(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"former")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="not writable"), atomic_write(tmp_path / "x.bin"):
            pass
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "x.bin").read_bytes() == b"former"


@POSIX_ONLY
def test_an_expert_too_large_for_the_disk_leaves_the_former_expert(tmp_path):
    """A real refusal by the system in the middle of the tensors, by way of a limit on file sizes."""
    code = """
        import resource, sys
        import torch
        from harness.experts import expert, metadata, same_meaning
        from dcm_core.expert.layers import Difference, Expert
        from dcm_core.expert.file import load_expert, save_expert
        path = sys.argv[1]
        save_expert(path, expert())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_expert(path, Expert(metadata(), {"head.head": Difference(torch.ones(500, 500))}))
        except OSError as error:
            print(error)
        assert same_meaning(load_expert(path), expert())
    """
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    path = tmp_path / "e.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "larger than this system allows" in done.stdout and "former file is unchanged" in done.stdout
    assert list(tmp_path.iterdir()) == [path]

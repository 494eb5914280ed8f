"""Files larger than memory: what is copied is the same bytes, and a file is there whole or not at all."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcm_core.errors import ExpertFileError
from dcm_core.files import stream as safetensors_stream
from dcm_core.files.format import TensorInfo, read_header, tensor_bytes
from dcm_core.files.stream import TensorSource, stream_tensors

ROOT = Path(__file__).parents[3]
TENSORS = {
    "b.weight": torch.randn(6, 5, dtype=torch.bfloat16),
    "a.weight": torch.randn(7, 3),
    "a.scalar": torch.tensor(2.5),
    "c.fp8": torch.randn(3, 4).to(torch.float8_e4m3fn),
    "d.empty": torch.zeros(0, 4),
    "e.mask": torch.tensor([True, False, True]),
}


@pytest.fixture
def source_file(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and tensor_bytes(one) == tensor_bytes(other)


def test_every_tensor_is_read_as_it_was_written(source_file):
    with TensorSource([source_file]) as source:
        assert source.metadata == {"format": "pt"}
        assert set(source.infos) == set(TENSORS)
        assert all(same(source.read(name), tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copies_split_and_joined_rows_are_the_same_bytes(tmp_path, source_file, monkeypatch, in_kernel):
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
        # Several chunks for each tensor.
        monkeypatch.setattr(safetensors_stream, "_CHUNK", 7)
    path = tmp_path / "target.safetensors"
    infos = {"swapped": TensorInfo("F32", (7, 3)), "joined": TensorInfo("BF16", (9, 5))}
    written = []
    with TensorSource([source_file]) as source:
        infos |= {f"copy.{name}": info for name, info in source.infos.items()}
        with stream_tensors(path, infos, {"made": "here"}, progress=written.append) as writer:
            for name in reversed(source.infos):
                writer.put(f"copy.{name}", source.rows(name))
            writer.put("joined", source.rows("b.weight", 3, 6), source.rows("b.weight"))
            writer.put("swapped", source.rows("a.weight", 2, None), tensor_bytes(TENSORS["a.weight"][:2]))
    made = load_file(path)
    assert all(same(made[f"copy.{name}"], tensor) for name, tensor in TENSORS.items())
    assert same(made["joined"], torch.cat([TENSORS["b.weight"][3:], TENSORS["b.weight"]]))
    assert same(made["swapped"], torch.cat([TENSORS["a.weight"][2:], TENSORS["a.weight"][:2]]))
    assert sum(written) == sum(tensor.nbytes for tensor in made.values())
    assert read_header(path).metadata == {"made": "here"}


def test_a_file_system_that_cannot_copy_by_itself_makes_no_difference(tmp_path, source_file, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    with (
        TensorSource([source_file]) as source,
        stream_tensors(tmp_path / "t.safetensors", source.infos, {}) as writer,
    ):
        for name in source.infos:
            writer.put(name, source.rows(name))
    assert all(same(made, TENSORS[name]) for name, made in load_file(tmp_path / "t.safetensors").items())


def test_metadata_may_become_known_after_the_tensors(tmp_path):
    path, tensor = tmp_path / "x.safetensors", torch.arange(300.0)
    with stream_tensors(path, {"x": TensorInfo("F32", (300,))}, {"a": "1"}, room=50) as writer:
        writer.put("x", tensor_bytes(tensor))
        assert same(writer.read("x"), tensor)
        writer.metadata["b"] = "2" * 30
    assert read_header(path).metadata == {"a": "1", "b": "2" * 30}
    assert same(load_file(path)["x"], tensor)
    with (
        pytest.raises(ValueError, match="outgrew"),
        stream_tensors(path, {"x": TensorInfo("F32", (300,))}, {}, room=8) as writer,
    ):
        writer.put("x", tensor_bytes(tensor))
        writer.metadata["b"] = "2" * 30


def test_a_tensor_that_is_forgotten_or_of_another_size_leaves_no_file(tmp_path):
    path, infos = tmp_path / "x.safetensors", {"x": TensorInfo("F32", (4,)), "y": TensorInfo("F32", (4,))}
    with pytest.raises(ValueError, match="not written: y"), stream_tensors(path, infos, {}) as writer:
        writer.put("x", tensor_bytes(torch.zeros(4)))
    with pytest.raises(ValueError, match="x was planned with 16"), stream_tensors(path, infos, {}) as writer:
        writer.put("x", tensor_bytes(torch.zeros(5)))
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    infos = {"x": TensorInfo("BF16", (10**9, 10**6))}
    with pytest.raises(OSError, match=r"needs 2000000\.00 GB, but only") as caught:
        with stream_tensors(tmp_path / "x.safetensors", infos, {}):
            raise AssertionError("nothing may be written")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_source_that_is_cut_while_it_is_read_is_said(tmp_path, source_file):
    with TensorSource([source_file]) as source:
        os.truncate(source_file, 200)
        with pytest.raises(ExpertFileError, match="became shorter"):
            source.read("a.weight")
        with (
            pytest.raises(ExpertFileError, match="became shorter"),
            stream_tensors(tmp_path / "t.safetensors", source.infos, {}) as writer,
        ):
            for name in source.infos:
                writer.put(name, source.rows(name))
    assert list(tmp_path.iterdir()) == [source_file]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory use as Linux counts it")
def test_a_file_larger_than_the_memory_taken_is_copied_and_read_through(tmp_path):
    """240 MB in tensors of 20 MB take less than three of them in memory, through both ways of copying."""
    code = """
        import errno, os, resource, sys
        from dcm_core.files.stream import TensorSource, stream_tensors
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        def refuse(*_):
            raise OSError(errno.ENOSYS, "not here")
        before = peak()
        for _ in range(2):
            with TensorSource([sys.argv[1]]) as source, stream_tensors(sys.argv[2], source.infos, {}) as writer:
                for name in source.infos:
                    writer.put(name, source.rows(name))
                assert sum(source.read(name)[-1, -1] for name in source.infos) == 66
            os.copy_file_range = refuse
        assert peak() - before < 60_000_000, peak() - before
    """
    path = tmp_path / "large.safetensors"
    infos = {f"x.{number}": TensorInfo("F32", (1000, 5_000)) for number in range(12)}
    with stream_tensors(path, infos, {}) as writer:
        for number, name in enumerate(infos):
            writer.put(name, tensor_bytes(torch.full((1000, 5_000), float(number))))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "copy.safetensors")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr

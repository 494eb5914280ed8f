"""Asking whether a folder takes files."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from training.output import require_writable


@pytest.mark.parametrize("there", [False, True])
def test_commands_that_ask_at_the_same_time_do_not_refuse_each_other(tmp_path, there):
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(require_writable, [folder] * 400))
    assert list(tmp_path.rglob("*")) == ([folder.parent, folder] if there else [])


def test_a_link_that_leads_nowhere_takes_no_files(tmp_path):
    (tmp_path / "output").symlink_to(tmp_path / "unplugged")
    for folder in (tmp_path / "output", tmp_path / "output" / "semantic"):
        with pytest.raises(OSError, match=r"Nothing can be written into .*output.*: choose another output"):
            require_writable(folder)

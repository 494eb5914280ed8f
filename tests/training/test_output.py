"""Asking whether a folder takes files, and holding it against a second command."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.hosts import ROOT

from training import distill, prepare
from training.output import alone, require_writable

HOLD = """
import sys, time
from pathlib import Path
from training.output import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


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


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and that process."""
    folder = tmp_path / "run" / "teacher"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"held\n"
        yield folder, process
        process.kill()


@pytest.fixture
def commands(tmp_path):
    """Both commands, writing into that folder."""
    config, prompts = tmp_path / "config.yaml", tmp_path / "prompts.txt"
    config.write_text(f"output: {tmp_path / 'run'}\nstages: {{teacher: {{method: teacher, iterations: 1}}}}\n")
    prompts.write_text("a red striped circle moving left fast\n")
    folder = str(tmp_path / "run" / "teacher")
    return {
        distill: ["--config", str(config), "backbone.name=shapes", "device=cpu"],
        prepare: ["--backbone", "shapes", "--prompts", str(prompts), "--output", folder],
    }


@pytest.mark.parametrize("command, option", [(distill, "output"), (prepare, "--output")])
def test_a_second_command_in_one_folder_is_refused(held, commands, monkeypatch, command, option):
    monkeypatch.setattr("training.output._PATIENCE", 0.1)
    folder, _ = held
    with pytest.raises(SystemExit, match=rf"Another command is writing into {folder} .* choose another {option}\."):
        command.main(commands[command])
    assert [each.name for each in folder.iterdir()] == [".lock"]


def test_a_command_that_was_killed_holds_nothing(held):
    folder, process = held
    process.kill()
    process.wait()
    with alone(folder):
        pass

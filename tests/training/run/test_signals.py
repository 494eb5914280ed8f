"""A run that is asked to stop saves and leaves, by a signal and by a file."""

import os
import signal

import pytest

from training import distill
from training.config import to_yaml
from training.errors import Stopped


@pytest.fixture
def former():
    """What SIGTERM does outside a run, which is put back."""
    return signal.getsignal(signal.SIGTERM)


def asked(run, how: str) -> None:
    """Ask a run to stop while its second iteration lasts."""
    step = run.method.step

    def asking(iteration):
        if iteration == 1 and how == "file":
            (run.folder / "stop").touch()
        elif iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one ends the process at once
        return step(iteration)

    run.method.step = asking


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_run_that_is_asked_to_stop_saves_and_can_go_on(trainer, capsys, former, how):
    run = trainer("teacher", iterations=4)
    asked(run, how)
    with pytest.raises(Stopped, match="after iteration 2 of 4 and saved in .*00000002: the same command goes on"):
        run.run()
    assert [path.name for path in run.checkpoints.all()] == ["00000002"]
    assert not (run.folder / "stop").exists() and not (run.folder / "teacher.safetensors").exists()
    assert signal.getsignal(signal.SIGTERM) == former
    assert capsys.readouterr().err.endswith("\n"), "what is said next begins a line"
    second = trainer("teacher", iterations=4)
    second.run()
    assert second.iteration == 4 and "continued from iteration 2" in capsys.readouterr().out


def test_a_stop_that_comes_in_the_last_iteration_ends_no_longer_run(trainer):
    run = trainer("teacher", iterations=2)
    asked(run, "file")
    run.run()
    assert not (run.folder / "stop").exists()
    longer = trainer("teacher", iterations=4)
    longer.run()
    assert longer.iteration == 4


def test_the_command_ends_well_and_tries_no_later_stage(tiny, trainer, tmp_path, monkeypatch, capsys):
    built = []

    def build(config):
        built.append(trainer("teacher", iterations=4))
        asked(built[0], "file")
        return built[0]

    monkeypatch.setattr("training.trainer.build_trainer", build)
    config = tiny(tmp_path, "teacher")
    both = config.model_copy(update={"stage": "", "stages": {"teacher": config.selected(), "again": config.selected()}})
    (tmp_path / "config.yaml").write_text(to_yaml(both))
    distill.main(["--config", str(tmp_path / "config.yaml")])  # no SystemExit: the exit code is 0
    assert "Stopped as asked after iteration 2 of 4" in capsys.readouterr().out
    assert len(built) == 1


def test_a_request_during_the_last_iteration_does_not_keep_it_from_ending(trainer, former):
    run = trainer("teacher", iterations=2)
    asked(run, "signal")
    run.run()
    assert (run.folder / "teacher.safetensors").exists()

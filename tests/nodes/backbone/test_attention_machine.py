"""What a choice of attention is kept for: card, driver, PyTorch and host; and how much of a call is timed."""

import ctypes

import pytest
import torch
from dcm_pack.nodes.backbone import attention_choice, machine


class Library:
    """NVIDIA's management library, in which one function writes into a buffer it is given."""

    def nvmlInit_v2(self):  # noqa: N802 - its name
        return 0

    nvmlShutdown = nvmlInit_v2

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        text.value = b"580.159.04"
        assert size == 96
        return 0


class Asleep(Library):
    """Without a driver that answers, or with one that was updated under it."""

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        return 1


def absent(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("library", "driver"),
    [
        (lambda name: Library(), "580.159.04"),
        (lambda name: Asleep(), "of an unknown version"),
        (absent, "of an unknown version"),
    ],
    ids=["there", "asleep", "absent"],
)
def test_a_card_is_told_with_its_driver(monkeypatch, library, driver):
    """No function of PyTorch tells it in all versions: one that newer builds lack ended the run here once."""
    machine.driver_version.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    said = machine.machine("cuda:0")
    machine.driver_version.cache_clear()
    assert said.startswith(f"card of cuda:0, driver {driver}, PyTorch {torch.__version__}, ComfyUI ")


@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "timed"),
    [(32760, 32760, 12, 1), (32760, 512, 40, 12), (32760, 512, 12, 12), (3120, 512, 12, 12)],
)
def test_calls_of_few_operations_are_timed_with_more_heads(tokens, keys, heads, timed):
    """One head of a text took its launch alone on an H200: two ways to the same kernel seemed to differ twofold."""
    assert attention_choice.heads_to_time(tokens, keys, 128, heads) == timed

"""Rendered clips on disk: made once, and again where they are damaged or made of something else."""

import torch

from training.evaluation.store import stored


def test_what_is_there_is_taken_and_what_is_damaged_is_made_again(tmp_path):
    made = []

    def make():
        made.append(torch.full((2, 3), float(len(made))))
        return made[-1], 0.1

    def latents(name, recipe):
        found, seconds = stored(tmp_path / "rows", name, recipe, make)
        assert seconds == 0.1
        return float(found[0, 0])

    assert latents("DCM's 4 sigmas", {"seed": 1}) == latents("DCM's 4 sigmas", {"seed": 1}) == 0
    assert latents("DCM's 4 sigmas", {"seed": 2}) == 1 and latents("another", {"seed": 1}) == 2
    (file,) = (tmp_path / "rows").glob("another_*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    assert latents("another", {"seed": 1}) == 3 and latents("another", {"seed": 1}) == 3
    assert latents("DCM's 4 sigmas", {"seed": 1}) == 0

"""The comparison has to tell a perfect sampler from a poor one, from the same noise."""

import torch

from dcm_core.families.presets import FAMILIES
from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ATTRIBUTES
from dcm_core.shapes.render import render_clips
from training.shapes.compare import Trial, choose_prompts, compare
from training.shapes.entrants import Entrant, plain_sigmas

SCHEDULE = FAMILIES["shapes"].schedule


def oracle(prompts):
    """The velocity that leads any noise straight to rendered clips of the prompts."""
    latents = autoencoder.encode(render_clips(prompts, torch.Generator().manual_seed(1)))
    return lambda x, sigma, text: (x - latents) / sigma.view(-1, 1, 1, 1, 1)


def still(x, sigma, text):
    return torch.zeros_like(x)


def test_a_perfect_model_scores_perfectly_and_a_still_one_does_not():
    trial = Trial.of(6, seed=3, again=0)
    sigmas = plain_sigmas(SCHEDULE, 4)
    entrants = [
        Entrant.of("perfect", lambda: oracle(trial.prompts), sigmas),
        Entrant.of("noise", lambda: still, sigmas, guidance=3.0),
    ]
    perfect, noise = compare(entrants, trial, shown=2)
    assert all(perfect.numbers[attribute].value == 1 for attribute in ATTRIBUTES)
    assert perfect.numbers["motion error"].high < 0.03 and perfect.numbers["distance"].high == 0
    assert not any(noise.numbers[attribute].value for attribute in ("colour", "shape", "texture"))
    assert noise.numbers["distance"].low > 0.5 and noise.numbers["Frechet"].value > perfect.numbers["Frechet"].value
    for name, same in (("motion", 1), ("frame difference", 1), ("high frequencies", 1), ("temporal error", 0)):
        assert perfect.numbers[name].value == same
    assert (perfect.facts, noise.facts) == ({"calls": "4", "cfg": "1"}, {"calls": "8", "cfg": "3"})
    assert len(noise.clips) == len(noise.beside["distance"]) == 2


def test_rows_that_were_rendered_are_not_rendered_again(tmp_path):
    calls = []

    def model():
        calls.append(1)
        return still

    def run(seed, files):
        entrant = Entrant.of("a", model, torch.tensor([1.0, 0.0]), files=files)
        (row,) = compare([entrant], Trial.of(1, seed, again=0), 1, tmp_path)
        return row

    first = run(seed=1, files="old")
    again = run(seed=1, files="old")
    assert len(calls) == 1 and again.numbers == first.numbers and again.seconds == first.seconds
    run(seed=2, files="old")
    run(seed=1, files="new")
    assert len(calls) == 3, "other noise, and other files"


def test_diversity_is_measured_on_prompts_from_more_noise_and_nothing_else_is():
    trial = Trial.of(4, seed=0)
    assert len(trial.prompts) == len(trial.noise) == 4 + 3 * 4 and trial.captions[4:8] == trial.captions[:4]
    alone = Trial.of(4, seed=0, again=0)
    torch.testing.assert_close(trial.noise[:4], alone.noise)
    sigmas = torch.tensor([1.0, 0.0])
    entrants = [
        Entrant.of("noise", lambda: still, sigmas),
        Entrant.of("one clip", lambda: lambda x, sigma, text: x - 1, sigmas),
    ]
    noise, one = compare(entrants, trial, 1)
    assert noise.numbers["diversity"].value == 1 and one.numbers["diversity"].value < 1e-5
    (same,) = compare(entrants[:1], alone, 1)
    assert "diversity" not in same.numbers and same.numbers["Frechet"] == noise.numbers["Frechet"]


def test_prompts_depend_on_the_seed_alone_and_repeat_only_after_all_were_used():
    assert choose_prompts(8, 1) == choose_prompts(8, 1) != choose_prompts(8, 2)
    assert len(set(choose_prompts(288, 5))) == 288
    assert len(choose_prompts(300, 5)) == 300


def test_the_plain_schedule_is_the_usual_one():
    sigmas = plain_sigmas(SCHEDULE, 4)
    u = torch.tensor([1.0, 0.75, 0.5, 0.25])
    shift = SCHEDULE.grid.shift
    assert sigmas.shape == (5,) and sigmas[-1] == 0
    # The grid has 50 points, so a quarter of it lies between two of them.
    torch.testing.assert_close(sigmas[:-1], shift * u / (1 + (shift - 1) * u), atol=0.02, rtol=0)
    assert len(plain_sigmas(SCHEDULE, 50)) == 51

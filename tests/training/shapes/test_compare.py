"""The comparison has to tell a perfect sampler from a poor one, from the same noise."""

import torch

from dcm_core.families.presets import FAMILIES
from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ATTRIBUTES
from dcm_core.shapes.render import render_clips
from training.shapes.compare import Entrant, as_markdown, choose_prompts, compare, plain_sigmas, table

SCHEDULE = FAMILIES["shapes"].schedule


def oracle(prompts):
    """The velocity that leads any noise straight to rendered clips of the prompts."""
    latents = autoencoder.encode(render_clips(prompts, torch.Generator().manual_seed(1)))
    return lambda x, sigma, text: (x - latents) / sigma.view(-1, 1, 1, 1, 1)


def test_a_perfect_model_scores_perfectly_and_a_still_one_does_not():
    prompts = choose_prompts(6, seed=0)
    sigmas = plain_sigmas(SCHEDULE, 4)
    entrants = [
        Entrant("perfect", oracle(prompts), sigmas),
        Entrant("noise", lambda x, sigma, text: torch.zeros_like(x), sigmas, guidance=3.0),
    ]
    perfect, noise = compare(entrants, prompts, seed=3)
    assert all(all(perfect.right(attribute)) for attribute in ATTRIBUTES)
    assert max(perfect.motion_error) < 0.03 and perfect.distance.max() == 0
    assert not any(any(noise.right(attribute)) for attribute in ("colour", "shape", "texture"))
    assert noise.distance.min() > 0.5
    assert (perfect.entrant.network_calls, noise.entrant.network_calls) == (4, 8)

    rows = table([perfect, noise])
    assert rows[0][4:9] == ("100%",) * 5
    lines = as_markdown(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1


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

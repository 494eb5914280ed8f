"""The v-prediction sampler against diffusers' scheduler and network, and against the host's euler."""

import pytest
import torch
from harness.schedules import COG, COG_2B, diffusers_ddim

from dcm_core.process import process_of
from dcm_core.sampling import euler, with_experts
from dcm_core.schedule.grid import NoiseGrid


@pytest.fixture(scope="module")
def network():
    """A tiny CogVideoX as velocity model: x [B, C, T, H, W] at sigma [B], told the timestep of the 5B's levels."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_embed_dim=8,
        time_embed_dim=16, num_layers=2, sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=5,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    text = torch.randn(1, 5, 8)
    return lambda x, timestep: model(x.transpose(1, 2), text.expand(len(x), -1, -1), timestep).sample.transpose(1, 2)


NOISE = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def followed(network, grid: NoiseGrid) -> torch.Tensor:
    sigmas = [*grid.sigmas.flip(0).tolist(), 0.0]
    return euler(
        lambda x, sigma: network(x, grid.curve.timestep(sigma).long()), NOISE, sigmas, process=process_of(grid)
    )


@torch.no_grad()
def by_diffusers(network, grid: NoiseGrid, terminal_alpha: float) -> torch.Tensor:
    steps, x = diffusers_ddim(grid.shift), NOISE
    steps.alphas_cumprod[-1] = terminal_alpha
    steps.set_timesteps(grid.points)
    for timestep in steps.timesteps:
        x = steps.step(network(x, timestep.expand(len(x))), int(timestep), x).prev_sample
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("points", [4, 10, 50])
def test_is_diffusers_ddim(network, shift, points):
    """Exact when both end at the host's signal of 5e-8; diffusers' own zero differs by its root, 2e-4."""
    grid = NoiseGrid(shift, points, "v_prediction")
    result = followed(network, grid)
    alpha = 1 / (1 + grid.sigma_max**2)
    expected = by_diffusers(network, grid, alpha)
    assert (result - expected).norm() < 1e-5 * expected.norm()
    at_zero = by_diffusers(network, grid, 0.0)
    assert (result - at_zero).norm() < 1e-3 * at_zero.norm()
    other = followed(network, NoiseGrid(4.0 - shift, points, "v_prediction"))  # 2B's levels for 5B, and vice versa
    assert (other - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("schedule", [COG, COG_2B])
def test_is_what_the_hosts_euler_does(schedule):
    """The host holds x * sqrt(1 + sigma^2), asks for the denoised latents and follows their line to the next sigma."""

    def velocity(x, sigma):
        return torch.tanh(3 * x) + sigma.atan().view(-1, 1, 1, 1, 1) * x.flip(1)

    sigmas = schedule.sigmas(4).double()
    x = NOISE.double() * (1 + sigmas[0] ** 2).sqrt()
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        scale = (1 + sigma**2).sqrt()
        scaled = x / scale
        denoised = scaled / scale - velocity(scaled, sigma.expand(2)) * sigma / scale
        x = x + (x - denoised) / sigma * (following - sigma)
    result = euler(velocity, NOISE.double(), sigmas, process=process_of(schedule.grid))
    assert torch.allclose(result, x, rtol=0, atol=1e-9)


def test_a_jump_to_zero_gives_the_clean_latents_and_to_pure_noise_the_noise():
    angle = torch.tensor(COG.kappa_sigma, dtype=torch.float64).atan()
    clean, noise = NOISE.double(), NOISE.double().flip(0)
    x, velocity = angle.cos() * clean + angle.sin() * noise, angle.cos() * noise - angle.sin() * clean
    assert torch.allclose(process_of(COG.grid).jump(x, velocity, COG.kappa_sigma, 0.0), clean)
    assert torch.allclose(process_of(COG.grid).jump(x, velocity, COG.kappa_sigma, COG.grid.sigma_max), noise, atol=1e-3)


def test_each_expert_gets_its_steps():
    asked = []

    def expert(name):
        def velocity(x, sigma):
            asked.append((name, int(COG.grid.curve.timestep(sigma)[0])))
            return torch.zeros_like(x)

        return velocity

    euler(with_experts(expert("semantic"), expert("detail"), COG), NOISE, COG.sigmas(4), process=process_of(COG.grid))
    assert asked == [("semantic", 999), ("semantic", 879), ("detail", 759), ("detail", 379)]


def test_flow_sigmas_and_timesteps_are_refused_by_name():
    with pytest.raises(ValueError, match="they are not timesteps"):
        euler(lambda x, sigma: x, NOISE, [9999.0, 0.0], process=process_of(COG.grid))

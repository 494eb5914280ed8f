"""The Euler solver against an ODE with a known solution, and which expert sees which sample."""

import math

import pytest
import torch
from harness.schedules import HY, OFFICIAL, WAN

from dcm_core.sampling import check_finite, euler, guided, with_experts

NOISE = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEAN = 2.0


def towards_gaussian(std: float):
    """The exact velocity of data drawn from a normal distribution with mean MEAN and the given spread."""

    def velocity(x, sigma):
        sigma = sigma.view(-1, 1, 1, 1, 1)
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        return (sigma - (1 - sigma) * std**2) / variance * (x - (1 - sigma) * MEAN) - MEAN

    return velocity


def constant(value: float):
    return lambda x, sigma, *conditions: torch.full_like(x, value)


class TestEuler:
    def test_exact_for_straight_paths_whatever_the_steps(self):
        """Data at one point: the velocity is constant along each path, so one step and many end on the point."""
        for steps in (1, 4, 50):
            assert torch.allclose(
                euler(towards_gaussian(0.0), NOISE, HY.sigmas(steps).double()), torch.tensor(MEAN).double()
            )

    def test_converges_to_the_analytic_solution_at_first_order(self):
        """From sigma 1 the flow of a Gaussian maps noise to MEAN + std * noise."""
        exact = MEAN + 0.3 * NOISE
        errors = []
        for steps in (100, 200, 400):
            sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
            errors.append((euler(towards_gaussian(0.3), NOISE, sigmas) - exact).abs().max().item())
        assert errors[-1] < 0.02
        assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], rel=0.1)

    def test_a_run_cut_in_two_is_the_same_run(self):
        sigmas, model = HY.sigmas(4).double(), towards_gaussian(0.3)
        whole = euler(model, NOISE, sigmas)
        assert torch.equal(euler(model, euler(model, NOISE, sigmas[:3]), sigmas[2:]), whole)

    def test_the_model_is_told_the_sigma_of_every_step_and_sample(self):
        seen = []

        def model(x, sigma):
            seen.append(sigma)
            return torch.zeros_like(x)

        euler(model, NOISE.float(), HY.sigmas(4))
        assert torch.equal(torch.stack(seen), HY.sigmas(4)[:-1, None].expand(4, 3))

    def test_callback_sees_each_step_and_the_estimate_of_the_clean_latents(self):
        calls = []
        result = euler(towards_gaussian(0.0), NOISE, [1.0, 0.5, 0.0], lambda *call: calls.append(call))
        assert [step for step, _, _ in calls] == [0, 1]
        assert torch.allclose(calls[0][1], 0.5 * NOISE + 0.5 * MEAN)
        assert all(torch.allclose(clean, torch.full_like(clean, MEAN)) for _, _, clean in calls)
        assert torch.equal(calls[1][1], result)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_does_not_round_small_steps_away(self, dtype):
        noise = torch.full((1, 1, 1, 1, 1), 200.0, dtype=dtype)
        result = euler(lambda x, sigma: torch.ones_like(x, dtype=dtype), noise, [1.0, 0.9995, 0.999])
        assert result.dtype == torch.float32
        assert result.item() == pytest.approx(200 - 0.001, abs=2e-5)

    def test_the_given_latents_are_left_alone(self):
        noise = NOISE.clone()
        euler(towards_gaussian(0.3), noise, HY.sigmas(4))
        assert torch.equal(noise, NOISE)

    def test_sampling_builds_no_graph(self):
        weight = torch.ones((), requires_grad=True)
        assert not euler(lambda x, sigma: weight * x, NOISE, HY.sigmas(2)).requires_grad

    @pytest.mark.parametrize("sigmas", [[1.0], [0.0, 1.0], [1.0, math.nan], [1000.0, 0.0]])
    def test_impossible_sigmas(self, sigmas):
        with pytest.raises(ValueError, match="sigmas"):
            euler(constant(0), NOISE, sigmas)

    def test_wrong_shapes_and_types(self):
        with pytest.raises(ValueError, match=r"returned \[3, 4, 2, 3\] for latents \[3, 4, 2, 3, 3\]"):
            euler(lambda x, sigma: x[..., 0], NOISE, HY.sigmas(2))
        with pytest.raises(ValueError, match="int64"):
            euler(constant(0), NOISE.long(), HY.sigmas(2))


class TestExperts:
    @pytest.mark.parametrize("schedule", [HY, WAN, *OFFICIAL.values()])
    @pytest.mark.parametrize("steps", [1, 2, 4, 6])
    def test_a_run_gives_each_expert_its_steps(self, schedule, steps):
        calls = {"semantic": 0, "detail": 0}

        def expert(name):
            def velocity(x, sigma):
                calls[name] += 1
                return torch.zeros_like(x)

            return velocity

        sigmas = schedule.sigmas(steps)
        euler(with_experts(expert("semantic"), expert("detail"), schedule), NOISE, sigmas)
        assert (calls["semantic"], calls["detail"]) == schedule.split(sigmas)

    def test_a_batch_with_sigmas_of_both_experts_is_refused(self):
        model = with_experts(constant(1), constant(2), HY)
        assert model(NOISE, torch.ones(3)).eq(1).all() and model(NOISE, torch.zeros(3)).eq(2).all()
        with pytest.raises(ValueError, match=r"both experts \(0\.2000, 0\.9900; the switch is at 0\.98"):
            model(NOISE, torch.tensor([0.2, 0.99, 0.2]))


class TestGuidance:
    def test_extrapolates_from_unconditional_to_conditional(self):
        def model(x, sigma, text):
            return torch.full_like(x, text)

        velocity = guided(model, 3.0, 1.0, 6.0)(NOISE, torch.ones(3))
        assert velocity.eq(1 + 6 * 2).all()

    def test_scale_1_asks_once(self):
        asked = []

        def model(x, sigma, text):
            asked.append(text)
            return x

        guided(model, "cond", "uncond", 1.0)(NOISE, torch.ones(3))
        assert asked == ["cond"]

    def test_guides_both_experts(self):
        model = with_experts(lambda x, s, c: c, lambda x, s, c: 10 * c, HY)
        cond, uncond = torch.full_like(NOISE, 2.0), torch.full_like(NOISE, 1.0)
        for sigma, expected in ((1.0, 4.0), (0.5, 40.0)):
            velocity = guided(model, cond, uncond, 3.0)(NOISE, torch.full((3,), sigma))
            assert velocity.eq(expected).all()


class TestNotFinite:
    @pytest.mark.parametrize(("bad", "count"), [(math.nan, "1 NaN and 0 Inf"), (-math.inf, "0 NaN and 1 Inf")])
    @pytest.mark.parametrize(
        ("faulty", "message"),
        [
            ("semantic", "step 2 of 4: the semantic expert .* 0.9920"),
            ("detail", "step 3 of 4: the detail expert .* 0.9818"),
        ],
    )
    def test_names_step_expert_sigma_and_count(self, bad, count, faulty, message):
        at = {"semantic": 0.992, "detail": 0.982}[faulty]

        def velocity(x, sigma):
            v = torch.zeros_like(x)
            v[1, 0, 0, 0, 0] = bad if abs(sigma[0] - at) < 5e-4 else 0.0
            return v

        with pytest.raises(FloatingPointError, match=message) as caught:
            euler(with_experts(velocity, velocity, HY), NOISE, HY.sigmas(4))
        assert count in str(caught.value)
        assert "bfloat16" in str(caught.value)

    def test_a_plain_model_is_checked_too(self):
        with pytest.raises(FloatingPointError, match="step 1 of 2: the model"):
            euler(constant(math.nan), NOISE, HY.sigmas(2))

    def test_in_a_batch_the_sigma_is_that_of_the_first_sample_at_fault(self):
        velocity = torch.zeros(3, 2)
        velocity[1, 0] = math.inf
        with pytest.raises(FloatingPointError, match="sigma 0.5000"):
            check_finite(velocity, "detail expert", torch.tensor([0.9, 0.5, 0.1]))
        check_finite(torch.zeros(3, 2), "detail expert", 0.5)

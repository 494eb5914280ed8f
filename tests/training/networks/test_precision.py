"""16 bits where they do no harm: the noise level, norms and whatever is trained stay in 32."""

import warnings

import pytest
import torch
from torch import nn

from dcm_core.expert.file import load_expert
from training.networks.precision import widen_norms

BF16 = {"compute": {"dtype": "bfloat16"}}


@pytest.mark.parametrize("mode", ["adapter", "full"])
@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_frozen_matrices_are_held_in_16_bits_and_what_is_trained_in_32(trainer, stage, mode):
    method = trainer(stage, {"mode": mode, "target_ema": 0.5}, **BF16).method
    assert {p.dtype for p in method.trainable.values()} == {torch.float32}
    averages = {value.dtype for value in method.averages["target"].values.values()}
    assert averages == {torch.float32}
    held = dict(method.teacher.network.transformer.named_parameters())
    low = {name for name, p in held.items() if p.dtype == torch.bfloat16}
    assert {name for name in low if "ffn" in name or "patch_embedding" in name}
    assert not {name for name in low if "time" in name or "norm" in name or "table" in name or ".student." in name}
    metrics = method.step(0)
    plain = trainer(stage, {"mode": mode, "target_ema": 0.5}).method.step(0)
    assert metrics == pytest.approx(plain, rel=0.15, abs=2e-3)


def test_a_timestep_is_not_rounded_to_16_bits(trainer):
    """981.8 would be 980: the velocities at both differ as they do in 32 bits."""
    plain, low = trainer("semantic").method, trainer("semantic", **BF16).method
    x = torch.randn(1, *plain.data.latent_shape, generator=torch.Generator().manual_seed(0))
    conditions = plain.data.conditions(["a red plain circle moving left slowly"])
    seen = []
    embedder = low.student.network.transformer.condition_embedder.time_embedder
    embedder.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    exact = plain.student.network.transformer.condition_embedder.time_embedder
    with torch.no_grad():
        for timestep in (981.8, 980.0):
            low.student(x, torch.tensor([timestep]), conditions)
    (first, one), (second, other) = seen
    assert one.dtype == first.dtype == torch.float32
    assert not torch.equal(first, second) and not torch.equal(one, other)
    torch.testing.assert_close(one, exact(first))


@pytest.fixture
def every_warning():
    torch.set_warn_always(True)  # some are given once in a process
    yield
    torch.set_warn_always(False)


def test_norms_of_a_call_in_16_bits_give_what_pytorch_gives_and_it_does_not_warn(trainer, every_warning):
    """Its own way to the same bits is a cast, of which it warns."""
    network = nn.Sequential(nn.RMSNorm(24))
    network[0].weight.data.uniform_()
    x = torch.randn(3, 24).bfloat16()
    with pytest.warns(UserWarning, match="Mismatch dtype"):
        expected = network(x)
    method = trainer("semantic", **BF16).method
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        widen_norms(network)
        assert torch.equal(network(x), expected)
        method.step(0)


def test_the_file_of_a_run_in_16_bits_holds_what_was_learned_and_no_rounding_of_the_backbone(trainer, tmp_path):
    """Over a backbone in 32 bits too: untrained weights differ from it by nothing."""
    run = trainer("semantic", iterations=1, optimizer={"lr": 1e-12, "weight_decay": 0.0}, **BF16)
    run.run()
    expert = load_expert(tmp_path / "semantic" / "semantic.safetensors")
    assert max(norm for norm in expert.norms().values() if norm is not None) < 1e-7


def test_features_are_held_as_the_network_has_them_and_judged_in_32_bits(trainer):
    """They are what a detail stage holds most of. Their velocities, which are compared, are in 32 bits."""
    method = trainer("detail", **BF16).method
    batch = method.data.batch(method.draws(0))
    features = method.teacher(batch.latents, torch.full((4,), 500.0), batch.conditions, 1)[1]
    assert {each.dtype for each in features.tokens} == {torch.bfloat16}
    assert {each.dtype for each in features.velocities} == {torch.float32}
    judge = method.adversary.discriminator
    layers = features.tokens[::2]
    logits, wide = (
        judge([each if dtype is None else each.to(dtype) for each in layers], features.grid)
        for dtype in (None, torch.float32)
    )
    assert all(one.dtype == torch.float32 and torch.equal(one, other) for one, other in zip(logits, wide, strict=True))

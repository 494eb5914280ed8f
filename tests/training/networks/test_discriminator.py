import pytest
import torch

from dcm_core.losses import hinge_discriminator
from training.networks.discriminator import Discriminator


def tokens(seed: int, grid=(2, 3, 4), channels=8, batch=2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1] * grid[2]
    return [torch.randn(batch, count, channels, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 3, 4), (3, 7, 5)])
def test_any_token_grid(grid):
    logits = Discriminator(channels=8, layers=2, width=32)(tokens(0, grid), grid)
    assert [tuple(layer.shape) for layer in logits] == [(2, *grid)] * 2


def test_frames_and_samples_are_judged_apart():
    torch.manual_seed(0)
    discriminator, grid = Discriminator(channels=8, layers=2, width=32), (2, 3, 4)
    before = tokens(0)
    after = [layer.clone() for layer in before]
    after[0][1, 12:] += 1 + after[0][1, 12:]  # second frame of the second clip, first layer
    pairs = zip(discriminator(before, grid), discriminator(after, grid), strict=True)
    changed = [(a - b).abs().amax(dim=(2, 3)) > 1e-6 for a, b in pairs]
    assert changed[0].tolist() == [[False, False], [False, True]]
    assert not changed[1].any()


def test_separates_clearly_different_inputs():
    torch.manual_seed(0)
    grid = (2, 3, 4)
    pattern = torch.randn(8)
    discriminator = Discriminator(channels=8, layers=2, width=32)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.999))

    def logits(seed, real):
        features = [layer + (pattern if real else -pattern) for layer in tokens(seed)]
        return discriminator(features, grid)

    assert hinge_discriminator(logits(0, False), logits(1, True)).item() > 1.5
    for step in range(60):
        loss = hinge_discriminator(logits(2 * step + 2, False), logits(2 * step + 3, True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        fake = torch.cat([layer.flatten() for layer in logits(1000, False)])
        real = torch.cat([layer.flatten() for layer in logits(1001, True)])
    assert (fake < 0).float().mean() > 0.95 and (real > 0).float().mean() > 0.95


def test_width_need_not_be_a_multiple_of_32():
    Discriminator(channels=8, layers=1, width=20)(tokens(0)[:1], (2, 3, 4))


def test_wrong_tokens_and_layers_are_named():
    discriminator = Discriminator(channels=8, layers=2, width=32)
    with pytest.raises(ValueError, match="24 tokens do not make the grid"):
        discriminator(tokens(0), (2, 3, 5))
    with pytest.raises(ValueError, match="2 discriminator heads, the teacher gave 1"):
        discriminator(tokens(0)[:1], (2, 3, 4))
    with pytest.raises(ValueError, match="needs a feature layer"):
        Discriminator(channels=8, layers=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_heads_that_are_computed_again_give_the_same(frozen):
    """Gradients too; where they are frozen, to the tokens alone."""
    torch.manual_seed(0)
    kept, grid = Discriminator(channels=8, layers=2, width=32), (2, 3, 4)
    again = Discriminator(channels=8, layers=2, width=32, checkpointed=True)
    again.load_state_dict(kept.state_dict())
    gradients = []
    for discriminator in (kept, again):
        features = [layer.requires_grad_() for layer in tokens(0)]
        sum(layer.square().sum() for layer in discriminator(features, grid, frozen)).backward()
        assert all((p.grad is None) == frozen and p.requires_grad for p in discriminator.parameters())
        gradients.append([each.grad for each in features])
    assert all(map(torch.equal, *gradients))

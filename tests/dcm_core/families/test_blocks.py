"""Numbered blocks: which must be lost, told from the names that are there, and the sizes that were published."""

import pytest
from harness.diffusers_models import MODELS, family_of, random_state

from dcm_core.families.blocks import Sizes, lost_in_blocks
from dcm_core.families.presets import find_family


def names(stem: str, numbers, *own: str) -> list[str]:
    return [f"{stem}.{number}.{name}" for number in numbers for name in own]


FULL = names("side", range(6), "attn.q.weight", "attn.q.bias", "ffn.0.weight")


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_network_has_lost_nothing(name):
    state = random_state(name)
    assert lost_in_blocks(state) == []
    assert lost_in_blocks(find_family(family_of(name)).keymap.state_to_comfy(state)) == []


@pytest.mark.parametrize(
    "more",
    [
        names("side", [0], "before.weight"),  # the first alone
        names("side", [0, 5], "ends.a.weight"),
        names("side", [0, 2, 4], "each.second.weight"),
        names("side", [0, 3, 5], "no.rule.weight"),
        names("side", [4, 5], "last.two.weight"),
        ["mlp.0.weight", "mlp.2.weight", "mlp.2.bias"],  # a sequence with activations
        ["ff.net.0.proj.weight", "ff.net.2.weight"],
        # Blocks of two makes, as in the motion encoder of Wan Animate.
        [*names("convs", [0], "0.weight", "1.bias"), *names("convs", range(1, 8), "conv1.0.weight", "skip.1.weight")],
    ],
)
def test_parts_of_any_make_have_lost_nothing(more):
    assert lost_in_blocks([*FULL, *more]) == []


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("side.3.", ["side.3"]),
        ("side.0.", ["side.0"]),
        ("side.3.attn.q.bias", ["side.3.attn.q.bias"]),
        ("side.0.ffn.0.weight", ["side.0.ffn.0.weight"]),
        ("side.5.ffn.0.weight", ["side.5.ffn.0.weight"]),
        (("side.2.attn.q.bias", "side.3.attn.q.bias"), ["side.2.attn.q.bias", "side.3.attn.q.bias"]),
    ],
)
def test_what_blocks_have_lost_is_named(lost, said):
    assert lost_in_blocks([name for name in FULL if not name.startswith(lost)]) == said


def test_a_size_is_doubted_only_where_a_published_one_is_as_wide_and_longer():
    sizes = Sizes("first.weight", ("a.{i}", "b.{i}"), {(8, 2, 3): "1B", (16, 4, 4): "2B"})

    def shapes(width: int, a: int, b: int) -> dict[str, tuple[int, ...]]:
        blocks = [*names("a", range(a), "x"), *names("b", range(b), "x")]
        return {"first.weight": (width, 4)} | dict.fromkeys(blocks, (1,))

    assert sizes.name(shapes(8, 2, 3)) == "1B" and sizes.name(shapes(8, 1, 3)) == "of width 8 with 1 + 3 blocks"
    for whole in (shapes(8, 2, 3), shapes(16, 4, 4), shapes(9, 1, 1), shapes(8, 3, 3)):
        assert sizes.doubt(whole) == ""
    assert "as wide as the 1B one and has 2 + 2 blocks instead of 2 + 3" in sizes.doubt(shapes(8, 2, 2))
    assert "as wide as the 2B one" in sizes.doubt(shapes(16, 3, 4))

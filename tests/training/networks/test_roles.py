"""Roles as adapters of one backbone: who acts, what is trained, and what the files of it give."""

from copy import deepcopy

import pytest
import torch

from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.fingerprint import norm_tensors
from dcm_core.expert.merge import merged
from dcm_core.sampling import euler, with_experts
from training.backbones.base import Backbone
from training.config import ConfigError
from training.networks.roles import Player
from training.registry import check as check_config

ADAPTER = {"mode": "adapter", "rank": 3, "alpha": 6.0}  # as the semantic expert of the fixture was made
DETAIL = {"mode": "adapter", "rank": 4, "alpha": 8.0}


def asked(method, seed=1):
    generator = torch.Generator().manual_seed(seed)
    conditions = method.data.conditions(["a red plain circle moving left slowly"] * 2)
    return torch.randn(2, *method.data.latent_shape, generator=generator), conditions


def by_hand(method, adapters):
    """A plain network whose weights are summed here: W + alpha / rank * up down, and whole layers in their place."""
    network = method.backbone.build(seed=5)
    shared = method.student.network.transformer
    state = shared.state_dict()
    plain = {name.replace(".base_layer.", "."): value.clone() for name, value in state.items() if "base_layer" in name}
    plain |= {name: state[name].clone() for name in network.transformer.state_dict() if name not in plain}
    for adapter in adapters:
        for name, value in state.items():
            if f".lora_A.{adapter}." in name:
                layer = name.split(".lora_A")[0]
                size = {"semantic": 6 / 3}.get(adapter, method.options.alpha / method.options.rank)
                plain[f"{layer}.weight"] += size * state[name.replace("lora_A", "lora_B")] @ value
            elif f".twins.{adapter}." in name:
                plain[name.replace(f".twins.{adapter}", "")] = value.clone()
    network.transformer.load_state_dict(plain)
    return network


def test_each_role_is_the_network_computed_by_hand(trainer, adapted):
    method = trainer("detail", DETAIL | {"target_ema": 0.5}).method
    for iteration in range(2):
        method.step(iteration)
    x, conditions = asked(method)
    sigma = torch.tensor([0.3, 0.9])
    players = [
        (method.teacher, ()),
        (method.roles.below, ("semantic",)),
        (method.student, ("semantic", "student")),
        (method.target, ("semantic", "target")),
    ]
    seen = []
    with torch.no_grad():
        for player, adapters in players:
            expected = method.model(by_hand(method, adapters), conditions)(x, sigma)
            seen.append(method.model(player, conditions)(x, sigma))
            torch.testing.assert_close(seen[-1], expected, rtol=1e-5, atol=1e-5)
    for i, one in enumerate(seen):
        assert all((one - other).abs().max() > 1e-4 for other in seen[:i]), "roles that are alike show nothing"
    assert len(method.networks) == 1 and not method.student.network.acting


@pytest.mark.parametrize("stage", ["semantic", "detail", "lcm", "pcm"])
def test_an_untrained_adapter_has_no_effect_and_alone_is_trained(trainer, stage):
    method = trainer(stage, ADAPTER).method
    x, conditions = asked(method)
    sigma = torch.full((2,), 0.5)
    with torch.no_grad():
        below = method.model(method.roles.below, conditions)(x, sigma)
        assert torch.equal(method.model(method.student, conditions)(x, sigma), below)
    before = {name: p.detach().clone() for name, p in method.student.network.named_parameters()}
    method.step(0)
    moved = {name for name, p in method.student.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(".student." in name for name in moved)
    assert {name.removeprefix("transformer.") for name in moved} <= set(method.trainable)


def test_the_target_is_an_average_of_the_adapter_alone(trainer, adapted):
    method = trainer("detail", DETAIL | {"target_ema": 0.75}).method
    start = {name: p.detach().clone() for name, p in method.trainable.items()}
    method.step(0)
    target = dict(method.target.network.transformer.named_parameters())
    assert method.averages["target"].values.keys() == method.trainable.keys()
    for name, p in method.trainable.items():
        averaged = target[name.replace(".student.", ".target.")]
        torch.testing.assert_close(averaged, 0.75 * start[name] + 0.25 * p)
        assert not averaged.requires_grad and p.requires_grad


def test_a_checkpoint_in_adapter_mode_holds_adapters_only(trainer, adapted):
    run = trainer("detail", DETAIL | {"target_ema": 0.5}, ema_decay=0.5)
    run.run()
    held = [name for name in run.method.tensors() if "discriminator" not in name]
    assert held and all(".student." in name for name in held)


def test_the_files_of_both_adapters_give_the_trainers_own_sampling(trainer, trained, adapted, tmp_path):
    """Merged by dcm_core into the teacher's file: what a user of the three files samples."""
    run = trainer("detail", DETAIL, iterations=3, ema_decay=0.5)
    run.run()
    method, steps = run.method, 4
    semantic, detail = (load_expert(path) for path in (adapted, tmp_path / "detail" / "detail.safetensors"))
    teacher = method.backbone.load(trained / "teacher" / "teacher.safetensors")
    high, low = method.backbone.build(seed=8), method.backbone.build(seed=9)
    state = method.backbone.comfy_state(teacher)
    at_high = merged(state, semantic)
    at_low = merged(at_high, detail)
    for network, weights in ((high, at_high), (low, at_low)):
        network.transformer.load_state_dict(method.backbone.keymap.state_to_diffusers(weights))
    x, conditions = asked(method)
    with method.averaged(), torch.no_grad():
        expected = method.sample(x, conditions, steps)
    experts = with_experts(method.model(high, conditions), method.model(low, conditions), semantic.metadata.schedule)
    sampled = euler(experts, x, method.schedule.sigmas(steps))
    torch.testing.assert_close(sampled, expected, rtol=1e-4, atol=1e-4)
    alone = euler(method.model(high, conditions), x, method.schedule.sigmas(steps))
    assert (alone - expected).abs().max() > 1e-2, "the detail expert must have an effect, or this shows nothing"


def test_a_low_rank_semantic_file_says_what_it_is_and_fits(trainer, adapted):
    expert = load_expert(adapted)
    assert (expert.metadata.expert, expert.metadata.rank, expert.metadata.alpha) == ("semantic", 3, 6.0)
    assert {type(layer).__name__ for layer in expert.layers.values()} == {"LowRank", "Difference"}
    method = trainer("semantic", ADAPTER).method
    state = method.backbone.comfy_state(method.teacher.network)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    report = check(expert, shapes, norm_tensors(state), "shapes")
    assert report.ok and not report.warnings, report.describe()


@pytest.mark.parametrize("stage", ["lcm", "pcm"])
def test_a_single_network_in_adapter_mode_is_exported_whole(trainer, tmp_path, stage):
    run = trainer(stage, ADAPTER, iterations=3)
    run.run()
    exported = run.method.backbone.load(tmp_path / stage / f"{stage}.safetensors")
    x, conditions = asked(run.method)
    sigma = torch.full((2,), 0.5)
    with torch.no_grad():
        expected = run.method.model(run.method.student, conditions)(x, sigma)
        torch.testing.assert_close(run.method.model(exported, conditions)(x, sigma), expected, rtol=1e-5, atol=1e-5)
        teacher = run.method.model(run.method.teacher, conditions)(x, sigma)
    assert (teacher - expected).abs().max() > 1e-3


def test_a_low_rank_semantic_expert_may_lie_below_a_detail_expert_in_full_mode(trainer, adapted):
    shared, copied = (
        trainer("detail", DETAIL | {"mode": mode, "semantic": str(adapted)}).method for mode in ("adapter", "full")
    )
    assert copied.step(0) == pytest.approx(shared.step(0), rel=1e-3)
    assert len(copied.networks) == 2


def test_an_expert_is_added_in_32_bits_to_weights_that_are_held_in_16(trainer, trained, monkeypatch):
    """No copy is in 32 bits on the way, each sum is rounded once, and what is not lowered stays as it is."""
    apply, given = Backbone.apply, []

    def watched(self, network, expert):
        given.append(network.dtype)
        apply(self, network, expert)

    monkeypatch.setattr(Backbone, "apply", watched)
    method = trainer("detail", DETAIL | {"mode": "full"}, compute={"dtype": "bfloat16"}).method
    assert given == [torch.bfloat16]
    teacher, found = (method.backbone.comfy_state(player.network) for player in (method.teacher, method.roles.below))
    expert = load_expert(trained / "semantic" / "semantic.safetensors")
    expected = merged({name: tensor.float() for name, tensor in teacher.items()}, expert)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.bfloat16}
    assert all(tensor.equal(expected[name].to(tensor.dtype)) for name, tensor in found.items())


def test_a_full_semantic_expert_is_no_adapter(trainer, trained, tiny, tmp_path):
    whole = str(trained / "semantic" / "semantic.safetensors")
    with pytest.raises(
        ConfigError, match=f"cannot be an adapter .*: it changes all weights. Train it .* It is {whole}"
    ):
        trainer("detail", ADAPTER | {"semantic": whole})
    config = tiny(tmp_path, "detail", ADAPTER)
    config.stages["semantic"] = config.stages["detail"].model_copy(update={"method": "semantic", "options": {}})
    with pytest.raises(ConfigError, match="stages.detail.options.mode=adapter needs a semantic expert that is an adap"):
        check_config(config)


def test_who_acts_ends_with_the_call_also_after_an_error(trainer, adapted):
    method = trainer("detail", DETAIL).method
    network = method.student.network
    with pytest.raises(ZeroDivisionError), network.having(["student"]):
        assert network.acting == ["student"]
        with network.having(()):
            assert not network.acting
        assert network.acting == ["student"]
        raise ZeroDivisionError
    assert not network.acting and isinstance(method.teacher, Player)


def test_a_copy_of_a_network_has_a_list_of_its_own(trainer, adapted):
    method = trainer("detail", DETAIL).method
    copied = Player(deepcopy(method.student.network), method.student.adapters)
    with method.student.network.having(("semantic",)):
        assert not copied.network.acting
    method.step(0)
    x, conditions = asked(method)
    sigma = torch.full((2,), 0.5)
    with torch.no_grad():
        below = method.model(method.roles.below, conditions)(x, sigma)
        assert torch.equal(method.model(copied, conditions)(x, sigma), below)


def test_a_file_without_one_of_its_layers_is_no_adapter(trainer, trained, adapted, tmp_path):
    expert = load_expert(adapted)
    expert.layers["blocks.9.self_attn.q"] = expert.layers.pop("blocks.0.self_attn.q")
    file = tmp_path / "misfit.safetensors"
    save_expert(file, expert)
    with pytest.raises(ConfigError, match="The semantic expert cannot be an adapter of this backbone"):
        trainer("detail", DETAIL | {"semantic": str(file)})

"""One step of every method, and what must hold exactly whatever the weights are."""

import pytest
import torch

from dcm_core.expert.file import load_expert, metadata_of
from dcm_core.families.presets import find_family
from dcm_core.process import FLOW, process_of
from training.config import ConfigError
from training.methods.consistency import consistency
from training.methods.pcm import phases
from training.run.draws import Draws

# Losses of the first iteration on tiny networks with fixed seeds, float32 on a CPU. Another machine or torch version
# may sum in another order: TOLERANCE is relative and far above that, far below any change of an equation.
TOLERANCE = 2e-3
GOLDEN = {
    "teacher": {"flow": 2.57677, "grad_norm": 0.964375},
    "semantic": {"consistency": 0.00994159, "temporal": 0.000143741, "grad_norm": 0.123355},
    "detail": {
        "consistency": 0.0507837,
        "adversarial": 0.467297,
        "matching": 0.000787716,
        "grad_norm": 0.514961,
        "discriminator": 1.99776,
        "grad_norm_discriminator": 0.102393,
    },
    "lcm": {"consistency": 0.0494046, "grad_norm": 0.383887},
    "pcm": {"consistency": 0.0171547, "grad_norm": 0.105857},
}


@pytest.mark.parametrize("method", GOLDEN)
def test_first_step_golden(trainer, method):
    metrics = trainer(method).method.step(0)
    assert set(metrics) == set(GOLDEN[method])
    for name, value in GOLDEN[method].items():
        assert metrics[name] == pytest.approx(value, rel=TOLERANCE), name


def batch_and_noise(method):
    return method.data.batch(method.draws(0)), torch.Generator().manual_seed(1)


def test_target_at_the_boundary_is_the_teachers_step_sample_by_sample(trainer):
    """In a batch of mixed indices exactly the samples on a span's first index have the teacher's x_prev as target."""
    method = trainer("semantic").method
    batch, generator = batch_and_noise(method)
    first = method.schedule.training_range("semantic").start
    index = torch.tensor([first, first + 3, first, method.schedule.grid.points - 1])
    x = torch.randn(batch.latents.shape, generator=generator)
    teacher = method.guided_teacher(batch.conditions)

    def poisoned(x, sigma):  # shows that the target network's answer cannot leak into a boundary sample
        return torch.full_like(x, float("nan"))

    student = method.model(method.student, batch.conditions)
    jumps = consistency(x, index, torch.full_like(index, first), method.schedule.grid, student, poisoned, teacher, FLOW)
    sigma, previous = method.schedule.grid.sigma(index), method.schedule.grid.previous(index)
    with torch.no_grad():
        arrived = x + (previous - sigma).view(-1, 1, 1, 1, 1) * teacher(x, sigma)
    equal = [torch.equal(one, other) for one, other in zip(jumps.target, arrived, strict=True)]
    assert equal == [True, False, True, False]
    assert jumps.end.tolist() == [pytest.approx(method.schedule.kappa_sigma)] * 4


def test_prediction_and_target_follow_the_equations(trainer):
    """x_end = x + (end - sigma) v, written out with numbers in place of networks."""
    method = trainer("semantic").method
    grid = method.schedule.grid
    x = torch.zeros(2, 1, 1, 1, 1)
    index, start = torch.tensor([40, 31]), torch.tensor([30, 30])
    jumps = consistency(x, index, start, grid, lambda x, s: 2 + 0 * x, lambda x, s: x + 5, lambda x, s: 3 + 0 * x, FLOW)
    for row, i in enumerate(index.tolist()):
        sigma, previous, end = grid.sigma(i), grid.previous(i), grid.previous(30)
        arrived = (previous - sigma) * 3
        assert jumps.prediction[row].item() == pytest.approx((end - sigma) * 2, rel=1e-5)
        assert jumps.target[row].item() == pytest.approx(arrived + (end - previous) * (arrived + 5), rel=1e-5)
    velocities = jumps.per_interval()
    assert velocities.prediction.flatten().tolist() == pytest.approx([-2, -2], rel=1e-4)


def test_in_v_prediction_no_noise_level_weighs_more_per_interval_than_another():
    """Where the sigma of pure noise is 4519, a student that is off by 1 is as wrong there as just above kappa."""
    grid = find_family("cogvideox").schedule.grid
    index, x = torch.tensor([38, 44, 49]), torch.zeros(3, 1, 1, 1, 1)
    models = [lambda x, sigma, shift=shift: x + shift for shift in (0.0, 1.0)]
    right, wrong = (
        consistency(x, index, torch.full_like(index, 38), grid, model, models[0], models[0], process_of(grid))
        for model in models
    )
    off = wrong.per_interval().prediction - right.per_interval().prediction
    assert off.flatten().tolist() == pytest.approx([-1.0] * 3, rel=1e-3)


def test_the_teacher_is_guided(trainer):
    method = trainer("semantic", {"guidance": 4.0}).method
    batch, generator = batch_and_noise(method)
    x, sigma = torch.randn(batch.latents.shape, generator=generator), torch.full((4,), 0.9)
    with torch.no_grad():
        cond = method.model(method.teacher, batch.conditions)(x, sigma)
        uncond = method.model(method.teacher, method.data.conditions([""] * 4))(x, sigma)
        torch.testing.assert_close(method.guided_teacher(batch.conditions)(x, sigma), uncond + 4 * (cond - uncond))


def semantic_network(method, trained):
    """The semantic expert that the detail expert was built over, from its files."""
    network = method.backbone.load(trained / "teacher" / "teacher.safetensors")
    method.backbone.apply(network, load_expert(trained / "semantic" / "semantic.safetensors"))
    return network


def test_detail_equals_semantic_at_initialisation(trainer, trained):
    method = trainer("detail").method
    batch, generator = batch_and_noise(method)
    x, sigma = torch.randn(batch.latents.shape, generator=generator), torch.tensor([0.1, 0.4, 0.7, 0.8])
    semantic = semantic_network(method, trained)
    with torch.no_grad():
        velocity = method.model(semantic, batch.conditions)(x, sigma)
        assert torch.equal(method.model(method.student, batch.conditions)(x, sigma), velocity)
        teacher = method.model(method.teacher, batch.conditions)(x, sigma)
    assert (velocity - teacher).abs().max() > 1e-3, "the semantic expert must differ, or this shows nothing"


@pytest.mark.parametrize("compiled", [None, "eager"])
def test_the_semantic_expert_stays_whole_below_a_trained_adapter(trainer, trained, compiled):
    """Its velocity is that of its files, bit for bit, and asking for it changes nothing of the training."""
    asked, unasked = (trainer("detail", {"real": "data"}, ema_decay=0.5, compile=compiled).method for _ in range(2))
    batch, generator = batch_and_noise(asked)
    x, sigma = torch.randn(batch.latents.shape, generator=generator), torch.full((4,), 0.9)
    for iteration in range(3):
        assert asked.step(iteration) == unasked.step(iteration)
        with torch.no_grad(), asked.averaged():
            expected = asked.model(semantic_network(asked, trained), batch.conditions)(x, sigma)
            assert torch.equal(asked.model(asked.roles.below, batch.conditions)(x, sigma), expected)
            detail = asked.model(asked.student, batch.conditions)(x, sigma)
        assert (detail - expected).abs().max() > 1e-3, "the adapter must have an effect, or this shows nothing"
    for name, p in asked.trainable.items():
        assert torch.equal(p, unasked.trainable[name]) and p.requires_grad, name


@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_frozen_weights_stay_bit_identical(trainer, stage):
    method = trainer(stage).method
    trained = {id(p) for learner in method.learners.values() for p in learner.parameters.values()}
    networks = {"student": method.student.network, "teacher": method.teacher.network}
    before = {(role, name): p.detach().clone() for role, net in networks.items() for name, p in net.named_parameters()}
    for iteration in range(3):
        method.step(iteration)
    for role, network in networks.items():
        for name, p in network.named_parameters():
            assert torch.equal(p, before[role, name]) == (id(p) not in trained), (role, name)


def test_the_detail_adapter_trains_what_the_key_map_lists(trainer):
    names = set(trainer("detail").method.trainable)
    assert {name for name in names if ".lora_" not in name} == {
        f"{layer}.twins.student.{kind}"
        for layer in (
            "condition_embedder.time_embedder.linear_1",
            "condition_embedder.time_embedder.linear_2",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder.linear_1",
            "condition_embedder.text_embedder.linear_2",
            "proj_out",
        )
        for kind in ("weight", "bias")
    }
    assert sum(".lora_" in name for name in names) == 3 * 2 * 4 * 2  # layers, attentions, projections, factors


def test_target_average_follows_the_student(trainer):
    method = trainer("semantic", {"target_ema": 0.75}).method
    start = {name: p.detach().clone() for name, p in method.trainable.items()}
    method.step(0)
    for name, p in method.target.network.transformer.named_parameters():
        torch.testing.assert_close(p, 0.75 * start[name] + 0.25 * method.trainable[name])
        assert not p.requires_grad


def test_short_clips_have_no_temporal_loss_and_say_so(trainer, caplog):
    method = trainer("semantic", {"tc_lag": 4}).method
    assert "temporal coherence loss (tc_lag=4) is always 0" in caplog.text
    assert method.step(0)["temporal"] == 0
    assert trainer("semantic", {"tc_lag": 3}).method.step(0)["temporal"] > 0


def test_per_interval_lifts_the_temporal_loss_to_the_size_of_the_consistency_loss(trainer):
    plain, divided = (trainer("semantic", {"per_interval": each}).method.step(0) for each in (False, True))
    assert divided["temporal"] / divided["consistency"] > 5 * plain["temporal"] / plain["consistency"]


@pytest.mark.parametrize("real", ["target", "data"])
def test_the_adversary_learns_from_data_only(trainer, real):
    """With the student's own target as real, fake and real are near identical: the loss stays at chance, 2."""
    method = trainer("detail", {"real": real}, data={"batch_size": 8}).method
    losses = [method.step(iteration)["discriminator"] for iteration in range(12)]
    assert (sum(losses[-3:]) / 3 < 1.95) == (real == "data")


def test_without_adversarial_weights_there_is_no_adversary(trainer):
    method = trainer("detail", {"adversarial": 0.0, "matching": 0.0}).method
    assert set(method.step(0)) == {"consistency", "grad_norm"}
    late = trainer("detail", {"adversarial_start": 1}).method
    assert "adversarial" not in late.step(0)
    assert "adversarial" in late.step(1)


def test_indices_stay_in_their_span_and_reach_all_of_it():
    drawn = torch.cat([Draws.of(0, i, 7).indices("index", range(30, 50)) for i in range(200)])
    assert drawn.unique().tolist() == list(range(30, 50))
    counts = torch.bincount(drawn - 30).float() / len(drawn)
    assert (counts - 1 / 20).abs().max() < 0.02


def test_phases_cover_the_grid_once():
    assert phases(range(50), 4) == [range(0, 12), range(12, 25), range(25, 37), range(37, 50)]
    assert phases(range(50), 1) == [range(50)]
    assert phases(range(30, 50), 2) == [range(30, 40), range(40, 50)]


@pytest.mark.parametrize("method", ["lcm", "pcm"])
def test_a_whole_network_on_one_side_of_kappa_leaves_the_other_to_the_teacher(trainer, method):
    whole = trainer(method).method
    high, low = (trainer(method, {"expert": expert}).method for expert in ("semantic", "detail"))
    assert (whole.spans()[0].start, whole.spans()[-1].stop) == (0, 50)
    assert (high.spans()[0].start, high.spans()[-1].stop) == (30, 50)
    assert (low.spans()[0].start, low.spans()[-1].stop) == (0, 30)
    assert torch.equal(high.sigmas(4), high.schedule.sigmas(4)) and not torch.equal(high.sigmas(4), whole.sigmas(4))
    assert "schedule.kappa_index" in high.trained_with() and "schedule.kappa_index" not in whole.trained_with()

    conditions = high.data.conditions(["a red plain circle moving left fast"])
    x = torch.randn(1, *high.data.latent_shape, generator=torch.Generator().manual_seed(0))
    for chosen, mine in ((high, 1.0), (low, 0.5)):
        for level in (1.0, 0.5):
            acting = chosen.student_alone if level == mine else chosen.guided_teacher
            sigma = torch.tensor([level])
            with torch.no_grad():
                torch.testing.assert_close(chosen.few_step(conditions)(x, sigma), acting(conditions)(x, sigma))


def test_exported_experts_rebuild_the_students(trainer, trained, tmp_path):
    """Teacher + semantic file = the trained network; + detail file = the adapted one."""
    semantic = trainer("semantic", iterations=1)
    semantic.run()
    file = tmp_path / "semantic" / "semantic.safetensors"
    method = semantic.method
    rebuilt = method.backbone.load(trained / "teacher" / "teacher.safetensors")
    method.backbone.apply(rebuilt, load_expert(file))
    batch, generator = batch_and_noise(method)
    x, sigma = torch.randn(batch.latents.shape, generator=generator), torch.full((4,), 0.9)
    with torch.no_grad():
        expected = method.model(method.student, batch.conditions)(x, sigma)
        torch.testing.assert_close(method.model(rebuilt, batch.conditions)(x, sigma), expected)

    detail = trainer("detail", {"semantic": str(file)}, iterations=2)
    detail.run()
    expert = load_expert(tmp_path / "detail" / "detail.safetensors")
    assert expert.metadata.base_fingerprint == load_expert(file).metadata.fingerprint
    assert (expert.metadata.rank, expert.metadata.alpha, expert.metadata.guidance) == (4, 8.0, 6.0)
    assert expert.metadata.schedule == detail.method.schedule
    with torch.no_grad():
        before = method.model(rebuilt, batch.conditions)(x, sigma)
        method.backbone.apply(rebuilt, expert)
        expected = method.model(detail.method.student, batch.conditions)(x, sigma)
        torch.testing.assert_close(method.model(rebuilt, batch.conditions)(x, sigma), expected)
    assert (before - expected).abs().max() > 1e-2, (
        "the detail expert must have learned something, or this shows nothing"
    )


@pytest.mark.parametrize(("stage", "mode"), [("semantic", "full"), ("semantic", "adapter"), ("detail", "full")])
def test_a_method_for_one_number_of_steps_says_so_in_its_file(trainer, tmp_path, stage, mode):
    method = trainer(stage, {"mode": mode}).method
    for steps in (None, 2):
        method.trained_steps = steps
        method.export(tmp_path / "e.safetensors")
        assert metadata_of(tmp_path / "e.safetensors").trained_steps == steps


@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_compiled_networks_take_the_same_step(trainer, stage):
    plain, compiled = (trainer(stage, compile=backend).method for backend in (None, "eager"))
    expected = plain.step(0)
    assert compiled.step(0) == pytest.approx(expected, rel=1e-5)
    assert compiled.trainable.keys() == plain.trainable.keys()


def test_a_file_that_is_no_semantic_expert_is_named(trainer, trained):
    file = trained / "teacher" / "teacher.safetensors"
    with pytest.raises(ConfigError, match="stages.detail.options.semantic: .*teacher.safetensors"):
        trainer("detail", {"semantic": str(file)})

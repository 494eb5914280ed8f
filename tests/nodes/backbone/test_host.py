"""What the pack relies on in the host, asked of the host: the first thing to run with a new release of it."""

import inspect
import re
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from dcm_pack.nodes.backbone import host, host_layers, out_of_reach
from harness import tiny
from harness.worlds import relative, world

NODES = Path(host.__file__).parents[1]
WEIGHT = "blocks.0.self_attn.q.weight"
# What no other file of the nodes may ask for; how layers run has a file of its own.
OWN = "backup|patches_uuid|object_patches|wrappers|current_patcher|cached_patcher_init|_orig_mod|manual_cast_dtype"


@pytest.fixture
def this():
    return world("wan")


def difference(model, size=1.0):
    return {host.PREFIX + WEIGHT: ("diff", (torch.full_like(host.network_of(model).get_parameter(WEIGHT), size),))}


def test_no_other_file_asks_for_it():
    files = {file for file in NODES.rglob("*.py") if re.search(rf"[.\"]({OWN})\b", file.read_text("utf-8"))}
    assert files == {Path(each.__file__) for each in (host, host_layers, out_of_reach)}


def test_classes_by_name(this):
    assert isinstance(this.model().model, host.backbone_class("WAN21"))
    assert host.backbone_class("Wan22") is None


def test_the_network_behind_a_compiled_one(this):
    model = this.model()
    network = host.network_of(model)
    model.add_object_patch("diffusion_model", torch.compile(network, backend="eager"))
    assert model.get_model_object("diffusion_model") is not network
    assert host.network_of(model) is network


def test_what_it_computes_in(this):
    assert host.dtype_of_computation(this.model()) == torch.float32
    few = this.model(dtype=torch.float8_e4m3fn)
    assert few.model.get_dtype() == torch.float8_e4m3fn
    assert host.dtype_of_computation(few) == torch.float32


def test_what_a_clone_computes_in_is_its_own(this):
    """As the stock node ModelComputeDtype has it: before its MODEL is loaded, and while another is."""
    model = this.model()
    half = model.clone()
    half.set_model_compute_dtype(torch.float16)
    sides = [each.get_additional_models()[0].model for each in map(this.applied, (model, half))]
    this.custom_sampled(half, this.schedule.sigmas(4))
    sides += [each.get_additional_models()[0].model for each in map(this.applied, (model, half))]
    dtypes = [{parameter.dtype for parameter in side.terms.parameters()} for side in sides]
    assert dtypes == 2 * [{torch.float32}, {torch.float16}]


def test_the_shift_is_that_of_the_shift_nodes(this):
    model = this.model()
    assert host.shift_of(model) == 8.0
    assert host.shift_of(ModelSamplingSD3().patch(model, 3.0)[0]) == 3.0


def test_weights_as_loaded_under_the_patches_of_a_clone(this):
    model = this.model()
    before = host.network_of(model).get_parameter(WEIGHT).clone()
    clone = model.clone()
    clone.add_patches(difference(clone))
    comfy.model_management.load_models_gpu([clone], force_patch_weights=True)
    state = host.network_of(model).state_dict()
    assert not torch.equal(state[WEIGHT], before)
    assert torch.equal(host.tensors_as_loaded(clone, {WEIGHT: state[WEIGHT]})[WEIGHT], before)


def test_patches_go_and_those_of_others_stay(this):
    model = this.model()
    ours, theirs = difference(model), difference(model, 0.5)
    model.add_patches(theirs)
    kept = model.patches[host.PREFIX + WEIGHT][:]
    model.add_patches(ours)
    loaded = model.patches_uuid
    host.remove_weight_patches(model, ours.items())
    assert model.patches == {host.PREFIX + WEIGHT: kept}
    assert model.patches_uuid != loaded, "the host would not load the weights anew"
    host.remove_weight_patches(model, theirs.items())
    assert not model.patches


def test_object_patches_go_but_where_another_is_set_since(this):
    model = this.model()
    ours = {"diffusion_model.head.modulation": object(), "model_sampling": object()}
    for name, value in ours.items():
        model.add_object_patch(name, value)
    model.add_object_patch("model_sampling", another := object())
    host.remove_object_patches(model, ours)
    assert model.object_patches == {"model_sampling": another}


def test_a_pair_of_matrices_is_added_to_its_rows(this):
    network, generator = this.merged(), torch.Generator().manual_seed(0)
    weight = network.get_parameter(WEIGHT)
    down, up = torch.randn(4, weight.shape[1], generator=generator), torch.randn(64, 4, generator=generator)
    model = this.model()
    adapter = host.lora_adapter(down, up, 8.0)
    key = (host.PREFIX + WEIGHT, (0, 32, 64))
    assert model.add_patches({key: adapter}, 0.5) == [key]
    with torch.no_grad():
        weight[32:96] += 0.5 * 8.0 / 4 * up @ down
    sigmas = torch.tensor([0.9, 0.5, 0.0])
    expected = this.truth(sigmas, network, network)
    result = model.model.process_latent_in(this.custom_sampled(model, sigmas))
    assert relative(result, expected) <= 1e-4
    assert relative(this.truth(sigmas, this.network, this.network), expected) > 1e-2


def test_the_outermost_wrapper_is_called_first(this):
    model, called = this.model(), []

    def noting(name):
        def note(executor, *args, **kwargs):
            called.append(name)
            return executor(*args, **kwargs)

        return note

    for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL):
        model.add_wrapper_with_key(kind, "theirs", noting("theirs"))
        host.add_outermost_wrapper(model, kind, "ours", noting("ours"))
        model.add_wrapper_with_key(kind, "later", noting("later"))
    this.custom_sampled(model.clone(), torch.tensor([1.0, 0.0]))
    assert called == ["ours", "theirs", "later"] * 2


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_where_a_run_keeps_its_noise_levels_and_its_step_cache(this, node):
    sigmas, seen = torch.tensor([1.0, 0.5, 0.0]), []
    model = node.execute(this.model(), 0.2, 0.0, 1.0, False).args[0]

    def look(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        seen.append(transformer_options)
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", look)
    this.custom_sampled(model, sigmas)
    assert len(seen) == 2
    for options in seen:
        assert torch.equal(options[host.RUN_SIGMAS], sigmas)
        assert "Cache" in type(options[host.STEP_CACHE]).__name__


def test_the_network_knows_whose_run_it_is(this):
    model, seen = this.model(), []
    first, second = model.clone(), model.clone()

    def look(executor, *args, **kwargs):
        seen.append(executor.class_obj.current_patcher)
        host.make_current(second)
        return executor(*args, **kwargs)

    first.add_wrapper(WrappersMP.APPLY_MODEL, look)
    this.custom_sampled(first, torch.tensor([1.0, 0.5, 0.0]))
    assert seen == [first, second]


def test_options_of_a_guider_are_its_own_copy(this):
    model = this.model()
    guider = CFGGuider(model)
    host.with_own_options(guider)["transformer_options"]["ours"] = True
    assert "ours" not in model.model_options["transformer_options"]
    assert "ours" in guider.model_options["transformer_options"]


def test_a_model_is_made_again_by_what_was_left_on_it(this):
    model = this.model()
    host.set_maker(model, this.model, "an argument")
    if "cached_patcher_init" not in inspect.getsource(type(model).clone):
        pytest.skip("this ComfyUI makes no MODEL again")
    assert model.clone().cached_patcher_init == (this.model, ("an argument",))


def test_options_of_the_loaders():
    for loader in (comfy.sd.load_diffusion_model, comfy.sd.load_diffusion_model_state_dict):
        known = inspect.signature(loader).parameters
        assert host.loader_options("default").keys() <= known.keys()
        if "disable_dynamic" in known:
            assert host.loader_options("fp8_e5m2", disable_dynamic=True).keys() <= known.keys()


def test_a_model_of_weights_is_the_loaders(this):
    stock, configs = this.model(), []
    state = {name: tensor.clone() for name, tensor in this.network.state_dict().items()}
    model = host.model_from_state(state, configs.append)
    assert type(model.model) is type(stock.model) and len(configs) == 1
    assert configs[0].unet_config["num_heads"] == this.network.num_heads
    assert configs[0].sampling_settings["shift"] == 8.0 and configs[0].latent_format
    assert model.model.get_dtype() == stock.model.get_dtype()
    sigmas = this.schedule.sigmas(4)
    assert torch.equal(this.custom_sampled(model, sigmas), this.custom_sampled(stock, sigmas))


def test_what_an_empty_latent_says_is_taken():
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    if len(known) == 2:
        pytest.skip("this ComfyUI's empty LATENTs say nothing of a VAE")
    assert set(host.EMPTY_LATENT_RATIOS) <= known.keys()


def test_whose_a_wrapper_is(this):
    """Of the clone that a network runs as, whichever others there are."""
    model, wrapper = this.model(), lambda executor, *arguments: executor(*arguments)
    clone = model.clone()
    clone.add_wrapper("apply_model", wrapper)
    for patcher, own in ((model, False), (clone, True)):
        patcher.pre_run()
        assert host.is_of(model.model, "apply_model", wrapper) is own
    patcher.cleanup()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_are_called_and_not_replayed(family):
    """Newer versions record the blocks of other networks as CUDA graphs. In one that was recorded without the detail
    expert it would not act, and as no forward runs there, nothing would see that."""
    network = host.network_of(world(family).model())
    assert "prefetch" not in inspect.getsource(inspect.getmodule(type(network)))

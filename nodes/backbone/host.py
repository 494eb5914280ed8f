"""What of ComfyUI the pack relies on beyond its public ways: the one file to reread at each of its releases.

Public, and used everywhere: ``comfy_api.v0_0_2``, ``folder_paths``, ``latent_preview``, ``PromptServer``, the loaders
of ``comfy.sd``, the samplers, ``CFGGuider``, the methods of ``ModelPatcher`` and the kinds of wrappers. The rest is
ComfyUI's own business. All of it is there from 0.3.64 on, the oldest version the pack runs on, where no other is named:

* the attributes and functions used below. ``tests/nodes/backbone/test_host.py`` asks each ComfyUI at hand for them;
* what wrappers are called with: ``APPLY_MODEL`` (``experts/switch.py``, ``experts/as_published.py``) as
  ``BaseModel.apply_model``, ``DIFFUSION_MODEL`` (``experts/as_published.py``) as the network's ``forward``,
  ``PREDICT_NOISE`` (``experts/switch.py``, ``run/stock_runs.py``) as ``CFGGuider.predict_noise``,
  ``OUTER_SAMPLE`` (``run/stock_runs.py``) as ``CFGGuider.outer_sample``, ``PREPARE_SAMPLING``
  (``run/pair_guider.py``) as ``comfy.sampler_helpers.prepare_sampling``; the executor's
  ``class_obj`` is the object whose method is wrapped;
* the course of a run (``run/expert_guider.py``, ``run/pair_guider.py``): the guider's ``sample`` calls that of its
  sampler, which calls the guider's ``outer_predict_noise``, and that its ``predict_noise``, once for each noise level
  it asks at; before, each MODEL that is going to be asked has its ``pre_run`` called (``run/stock_runs.py``);
* the one attention override among the transformer options, called with the host's function and its arguments, and the
  host's way of asking PyTorch for attention (``backbone/attention_choice.py``);
* what the stock nodes ask of a CLIP and a VAE, answered by duck types (``backbone/shapes_world.py``);
* CogVideoX's network from inside, from 0.20 on (``backbone/cogvideox.py``), and how layers are run (``host_layers.py``
  there), LoRA files read (``host_lora.py``) and patches left out (``out_of_reach.py``).
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import comfyui_version
import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from torch import Tensor, nn

from ...dcm_core.errors import shortened

# --- a MODEL from outside -----------------------------------------------------------------------------------------

# Before the names of the network's weights, in patches and in object patches.
PREFIX = "diffusion_model."
# What HunyuanVideo is told where the CONDITIONING says nothing.
EMBEDDED_GUIDANCE = 6.0

Value = TypeVar("Value")


def backbone_class(name: str) -> type | None:
    """The class of ``comfy.model_base`` of that name; None in a version without it."""
    return getattr(comfy.model_base, name, None)


def classes_of(model: ModelPatcher) -> set[str]:
    """The names of the classes that a MODEL's ``comfy.model_base.BaseModel`` is an instance of."""
    return {each.__name__ for each in type(model.model).__mro__ if backbone_class(each.__name__) is each}


def network_of(model: ModelPatcher) -> nn.Module:
    """The network itself, also where torch.compile's node has put a compiled one in its place."""
    network = model.get_model_object("diffusion_model")
    return getattr(network, "_orig_mod", network)


def uncompiled(named: Mapping[str, Value]) -> dict[str, Value]:
    """By parameter names as they are without compiled blocks in the network."""
    return {name.replace("_orig_mod.", ""): value for name, value in named.items()}


def latent_format_of(model: ModelPatcher) -> Any:
    """A ``comfy.latent_formats.LatentFormat``; read here: ``latent_channels`` and ``latent_dimensions``."""
    return model.get_model_object("latent_format")


def shift_of(model: ModelPatcher) -> float | None:
    """The shift that schedulers make noise levels by; None for a backbone that has none."""
    return getattr(model.get_model_object("model_sampling"), "shift", None)


def dtype_of_computation(model: ModelPatcher) -> torch.dtype:
    """What a MODEL computes in, whatever its weights are stored as, and whichever clone of it is loaded just now."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def tensors_as_loaded(model: ModelPatcher, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """These weights of the network, by name, as they were before the patches that are on it just now.

    Clones share one network. The host writes patches into its weights and keeps the former ones in ``backup``, and of
    Parameters that are replaced as objects (HunyuanVideo's ``.scale``) in ``object_patches_backup``.
    """
    backups = {name: model.backup.get(PREFIX + name) for name in tensors}
    loaded = {name: backups[name].weight if backups[name] else tensor for name, tensor in tensors.items()}
    objects = model.object_patches_backup
    return {name: objects.get(PREFIX + name, tensor) for name, tensor in loaded.items()}


# --- patches ------------------------------------------------------------------------------------------------------

# By the name of a weight or, for some rows of it, (name, (dimension, first row, number of rows)).
WeightPatches = dict[str | tuple[str, tuple[int, int, int]], Any]


def lora_adapter(down: Tensor, up: Tensor, alpha: float) -> comfy.weight_adapter.LoRAAdapter:
    """A low-rank pair (down [rank, in], up [out, rank]) as ``add_patches`` takes it."""
    return comfy.weight_adapter.LoRAAdapter(set(), (up, down, alpha, None, None, None))


def remove_weight_patches(model: ModelPatcher, patches: Iterable[tuple[str | tuple, Any]]) -> None:
    """Undo ``add_patches`` on this MODEL (already a clone); patches of others on the same weights stay."""
    patches = list(patches)
    ours = {id(patch) for _, patch in patches}
    for key, _ in patches:
        name = key if isinstance(key, str) else key[0]
        others = [entry for entry in model.patches.pop(name, []) if id(entry[1]) not in ours]
        if others:
            model.patches[name] = others
    model.patches_uuid = uuid.uuid4()  # weights are loaded anew only when this changes


def patched_weights(model: ModelPatcher, but: Iterable[tuple[str | tuple, Any]] = ()) -> set[str]:
    """The weights of the network that carry patches other than these, by name."""
    ours = {id(patch) for _, patch in but}
    patched = [name for name, entries in model.patches.items() if any(id(entry[1]) not in ours for entry in entries)]
    return {name.removeprefix(PREFIX) for name in patched}


def has_lost_its_patches(model: ModelPatcher) -> bool:
    """Has the host meanwhile patched the network that clones of this MODEL share for another of them?"""
    return model.model.current_weight_patches_uuid not in (None, model.patches_uuid)


def carry_the_same_patches(model: ModelPatcher, other: ModelPatcher) -> bool:
    """Are the same patches on the weights of these two clones? Clones share the entries of what they carry both."""
    ours, theirs = ({name: list(map(id, entries)) for name, entries in each.patches.items()} for each in (model, other))
    return ours == theirs


def remove_object_patches(model: ModelPatcher, values: Mapping[str, Any]) -> None:
    """Undo ``add_object_patch`` on this MODEL (already a clone), but where another value has been set since."""
    for name, value in values.items():
        if model.object_patches.get(name) is value:
            del model.object_patches[name]


def add_outermost_wrapper(model: ModelPatcher, kind: str, key: str, wrapper: Callable) -> None:
    """As ``add_wrapper_with_key``, around those that are there already: they are called in the order of the dict."""
    _put_first(model.wrappers, kind, key, wrapper)


def add_outermost_wrapper_of_run(model_options: dict[str, Any], kind: str, key: str, wrapper: Callable) -> None:
    """The same within a run, to the guider's ``model_options``, which are a copy then."""
    _put_first(model_options["transformer_options"]["wrappers"], kind, key, wrapper)


def _put_first(wrappers: dict[str, dict[str, list[Callable]]], kind: str, key: str, wrapper: Callable) -> None:
    wrappers[kind] = {key: [wrapper], **wrappers.get(kind, {})}


# --- loading ------------------------------------------------------------------------------------------------------

_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from checkpoint, the shape in "
    r"current model is torch\.Size\(\[(.*?)\]\)"
)
# The choices of the stock loader for how weights are stored: as in the file, or in one byte each.
WEIGHT_DTYPES = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def loader_options(weight_dtype: str, disable_dynamic: bool = False) -> dict[str, Any]:
    """Keyword arguments of the loaders of ``comfy.sd``. ``disable_dynamic`` came with Dynamic VRAM, in 0.11.1."""
    options: dict[str, Any] = {"model_options": WEIGHT_DTYPES[weight_dtype]}
    return options | {"disable_dynamic": True} if disable_dynamic else options


def load_state(
    state: dict[str, Tensor], metadata: Mapping[str, str], options: Mapping[str, Any]
) -> ModelPatcher | None:
    """A MODEL of weights by ComfyUI's names, by the stock loader; None where it knows no such backbone.

    ``metadata``: of the file's header, which newer versions ask how layers are quantised. Raises ValueError naming each
    tensor of another shape than the network's, and for those that no network can be made of.
    """
    stock = comfy.sd.load_diffusion_model_state_dict
    asked = {"metadata": dict(metadata)} if "metadata" in inspect.signature(stock).parameters else {}
    try:
        return stock(state, **options, **asked)
    except (LookupError, ArithmeticError) as error:
        # While it counts and measures them, to know what they are.
        raise ValueError(
            f"ComfyUI can make no network of these tensors: one is lost or of a wrong shape ({error!r}). Download the "
            "file again."
        ) from error
    except RuntimeError as error:
        wrong = [f"{name} [{given}] for [{needed}]" for name, given, needed in _MISMATCH.findall(str(error))]
        if not wrong:
            raise
        raise wrong_shapes(wrong) from error


def quantised_formats() -> set[str]:
    """The ways of quantising a layer that this host reads, by the names files have for them; 0.3.64 knows none."""
    if importlib.util.find_spec("comfy.quant_ops") is None:
        return set()
    return set(importlib.import_module("comfy.quant_ops").QUANT_ALGOS)


def wrong_shapes(wrong: list[str]) -> ValueError:
    return ValueError(
        f"{len(wrong)} tensors have another shape than the network that the others make: {shortened(wrong)}. The file "
        "is damaged, or parts of two models were mixed: download it again."
    )


def unlike_the_network(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Layers of another shape, which newer versions take without a word if any layer of the file is quantised."""
    found = []
    for name, module in network.named_modules():
        given = shapes.get(f"{name}.weight", ())
        if len(given) == 2 and hasattr(module, "in_features"):
            needed: Any = (module.out_features, module.in_features)
            if given != needed:
                found.append(f"{name}.weight {list(given)} for {list(needed)}")
    return found


def set_maker(model: ModelPatcher, make: Callable[..., ModelPatcher], *arguments: Any) -> None:
    """Leave on a MODEL what makes it once more: asked for by 0.33, not yet by 0.3.64.

    For each further GPU ``make(*arguments)``, and for a MODEL without Dynamic VRAM with ``disable_dynamic=True`` too.
    """
    model.cached_patcher_init = (make, arguments)


def model_from_state(state: dict[str, Tensor], configure: Callable[[Any], None]) -> ModelPatcher:
    """A MODEL of weights by ComfyUI's names as ``load_diffusion_model_state_dict`` makes it, with one step between.

    ``configure`` changes the ``comfy.supported_models_base.BASE`` that was detected.
    """
    management = comfy.model_management
    config = comfy.model_detection.model_config_from_unet(state, "")
    configure(config)
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    dtypes = config.supported_inference_dtypes
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=dtypes,
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device, dtypes))
    model = config.get_model(state, "").to(offload_device)
    model.load_model_weights(state, "")
    return ModelPatcher(model, load_device=load_device, offload_device=offload_device)


# --- a run --------------------------------------------------------------------------------------------------------

# Keys of a run's ``transformer_options``: its noise levels [N + 1], and the state of EasyCache or LazyCache.
RUN_SIGMAS = "sample_sigmas"
STEP_CACHE = "easycache"
# Key of ``model_options``: what DifferentialDiffusion makes of a noise mask at each step.
MASK = "denoise_mask_function"
# What an empty LATENT says about the VAE it is meant for, in 0.33; ``fix_empty_latent_channels`` takes them there.
EMPTY_LATENT_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def host_version() -> str:
    return comfyui_version.__version__


def with_own_options(guider: Any) -> dict[str, Any]:
    """The ``model_options`` of a guider, from now on a copy that its MODEL does not share."""
    guider.model_options = create_model_options_clone(guider.model_options)
    return guider.model_options


def running_as(base_model: Any) -> ModelPatcher:
    """The MODEL that a ``comfy.model_base.BaseModel`` runs as just now."""
    return base_model.current_patcher


def is_of(base_model: Any, kind: str, wrapper: Callable) -> bool:
    """Was this wrapper put on the MODEL that runs? A guider gives its own MODEL's to every network it asks."""
    return wrapper in running_as(base_model).get_all_wrappers(kind)


def make_current(patcher: ModelPatcher) -> None:
    """Let the network run as this clone's: all clones have one place for this, set when one of them is loaded."""
    patcher.model.current_patcher = patcher

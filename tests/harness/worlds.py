"""In the host's process: tiny random backbones as MODELs, experts over them, and what they must compute.

The truth comes from plain networks of the host's classes with all weights merged by hand, called by
`dcm_core.sampling`: no patcher, wrapper or sampler of the host has a part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from dcm_pack.dcm_core.expert.fingerprint import fingerprint, logical_shapes, norm_tensors
from dcm_pack.dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_pack.dcm_core.expert.metadata import ExpertMetadata
from dcm_pack.dcm_core.families.presets import FAMILIES
from dcm_pack.dcm_core.positions import rotary_angles
from dcm_pack.dcm_core.process import process_of
from dcm_pack.dcm_core.sampling import euler, with_experts
from dcm_pack.dcm_core.schedule.experts import ExpertSchedule
from torch import Tensor, nn

from . import tiny

TEXT_WIDTH = {"wan": 4096, "hunyuan_video": 256, "cogvideox": 256}
SHAPE = (1, 16, 3, 8, 8)


@dataclass(frozen=True)
class World:
    """One backbone family: a network, a semantic expert that changes every weight, and a detail expert."""

    family: str
    network: nn.Module
    semantic: Expert
    detail: Expert

    @property
    def schedule(self) -> ExpertSchedule:
        return FAMILIES[self.family].schedule

    def model(self, **options):
        """A MODEL of its own, made by the host's loader from a copy of the weights."""
        state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        return comfy.sd.load_diffusion_model_state_dict(state, model_options=options)

    def applied(self, model=None, **options):
        """The MODEL that DCMApplyExperts makes of this one (or of a fresh one) with both experts."""
        model = model or self.model()
        return dcm_node("DCMApplyExperts").execute(model, self.detail, self.semantic, **options)[0]

    def sampled(self, model, steps: int = 4, seed: int = 0, cfg: float = 1.0, latent: dict | None = None, **options):
        """The latents that DCMKSampler makes, from an empty LATENT unless one is given."""
        latent = latent or empty_latent()
        texts = self.text(0), self.text(1)
        output = dcm_node("DCMKSampler").execute(model, seed, steps, cfg, *texts, latent, **options)
        return output[0]["samples"]

    def without_detail(self, **options) -> Tensor:
        """As `sampled`, with the semantic expert in all steps."""
        return self.sampled(self.applied(detail_strength=0.0), **options)

    def custom_sampled(
        self, model, sigmas: Tensor, seed: int = 0, cfg: float = 1.0, latent=None, add_noise=True
    ) -> Tensor:
        """The latents that the stock SamplerCustom makes with euler."""
        sampler, latent = comfy.samplers.sampler_object("euler"), latent or empty_latent()
        texts = self.text(0), self.text(1)
        return SamplerCustom().sample(model, add_noise, seed, cfg, *texts, sampler, sigmas, latent)[0]["samples"]

    def baked(self, model=None):
        """(semantic MODEL, detail MODEL) that DCMBake makes of this one, or of a fresh one with both experts."""
        return dcm_node("DCMBake").execute(model or self.applied())[:2]

    def in_two_runs(self, semantic, detail, steps: int = 4, latent: dict | None = None) -> Tensor:
        """A stock sampler for each MODEL: the second goes on where the first one stopped, at the switch."""
        sigmas = self.schedule.sigmas(steps)
        cut = self.schedule.split(sigmas)[0]
        first = self.custom_sampled(semantic, sigmas[: cut + 1], latent=latent)
        return self.custom_sampled(detail, sigmas[cut:], latent={"samples": first}, add_noise=False)

    def text(self, seed: int = 0) -> list:
        """A CONDITIONING of 6 tokens, with the pooled vector that HunyuanVideo takes."""
        generator = torch.Generator().manual_seed(1000 + seed)
        text = torch.randn(1, 6, TEXT_WIDTH[self.family], generator=generator)
        return [[text, {"pooled_output": torch.randn(1, 768, generator=generator)}]]

    def merged(self, *experts: Expert) -> nn.Module:
        """The network with the experts, each at strength 1, added to its weights one after the other."""
        network = copy.deepcopy(self.network)
        for expert in experts:
            network.load_state_dict(merge(network.state_dict(), expert))
        return network

    def velocity(self, network: nn.Module, conditioning: list) -> Callable[[Tensor, Tensor], Tensor]:
        text, options = conditioning[0]
        extra = {}
        if self.family == "hunyuan_video":
            extra = {"y": options["pooled_output"], "guidance": torch.tensor([6.0])}
        told = self.schedule.grid.curve.timestep

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            batched = {name: tensor.expand(len(x), *tensor.shape[1:]) for name, tensor in extra.items()}
            return network(x, told(sigma), text.expand(len(x), -1, -1), **batched)

        return velocity

    def truth(self, sigmas: Tensor, semantic: nn.Module, detail: nn.Module, seed: int = 0, batch: int = 1) -> Tensor:
        """Latents in the network's own units [B, C, T, H, W], from the noise the host's samplers start with."""
        noise = comfy.sample.prepare_noise(torch.zeros(batch, *SHAPE[1:]), seed)
        text = self.text()
        model = with_experts(self.velocity(semantic, text), self.velocity(detail, text), self.schedule)
        process = process_of(self.schedule.grid)
        x = process.noised(torch.zeros_like(noise), noise, float(sigmas[0]))
        return euler(model, x, sigmas, process=process)


def merge(state: dict[str, Tensor], expert: Expert, strength: float = 1.0) -> dict[str, Tensor]:
    """The weights with the expert in them, spelled out once more: W + s alpha / rank B A, or W + s D."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank):
            state[f"{name}.weight"] += strength * layer.alpha / layer.down.shape[0] * layer.up @ layer.down
            continue
        for key, difference in (("weight", layer.weight), ("bias", layer.bias)):
            if difference is not None:
                state[f"{name}.{key}"] += strength * difference
    for name, difference in expert.parameters.items():
        state[name] += strength * difference
    return state


def dcm_node(name: str):
    from dcm_pack import nodes

    return getattr(nodes, name)


def empty_latent(batch: int = 1) -> dict[str, Tensor]:
    return {"samples": torch.zeros(batch, *SHAPE[1:])}


@cache
def world(family: str) -> World:
    network = tiny.randomise(tiny.FAMILIES[family](), seed=0)
    if family == "cogvideox":
        network._get_rotary_emb = lambda h, w, t, device: rotary_angles(t, h, w, 64, device)  # not as the host has it
    semantic = full_difference(network, family, seed=1)
    detail = tiny.random_expert(network, family, "detail", seed=2)
    changed = merge(network.state_dict(), semantic)
    base, after = (
        fingerprint(family, logical_shapes(network), norm_tensors(state)) for state in (network.state_dict(), changed)
    )
    semantic = replace(semantic, metadata=replace(semantic.metadata, base_fingerprint=base, fingerprint=after))
    detail = replace(detail, metadata=replace(detail.metadata, base_fingerprint=after))
    return World(family, network.requires_grad_(False), semantic, detail)


def full_difference(network: nn.Module, family: str, seed: int, strength: float = 0.1) -> Expert:
    """A semantic expert: every weight, every bias and every bare Parameter a little different."""
    generator = torch.Generator().manual_seed(seed)

    def difference(parameter: nn.Parameter | None) -> Tensor | None:
        if parameter is None:
            return None
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        return strength * torch.randn(parameter.shape, generator=generator) / fan_in**0.5

    layers, parameters = {}, {}
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own:
            layers[name] = Difference(difference(own["weight"]), difference(own.get("bias")))
        else:
            parameters |= {f"{name}.{key}": difference(parameter) for key, parameter in own.items()}
    metadata = ExpertMetadata("semantic", family, f"tiny_{family}", FAMILIES[family].schedule, guidance=6.0)
    return Expert(metadata, layers, parameters)


def relative(result: Tensor, expected: Tensor) -> float:
    """Distance over the length of what was expected."""
    return float((result - expected).norm() / expected.norm())


def assert_same(result: Tensor, expected: Tensor, semantic_alone: Tensor, tolerance: float) -> None:
    """Equal within the tolerance, where a run without the detail expert would be far outside of it."""
    assert relative(result, expected) <= tolerance
    assert relative(semantic_alone, expected) >= 100 * tolerance, "the detail expert does too little to be tested"

"""In the host's process: the files of tests/reference as ComfyUI finds them, and the nodes run on them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import comfy.samplers
import folder_paths
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from safetensors.torch import load_file
from torch import Tensor

from .worlds import dcm_node, empty_latent

# As tests/reference/write.py has them.
SEED, SEMANTIC_SIGMA, DETAIL_SIGMA = 7, 0.992, 0.9
STEPS = {"wan": 6, "hunyuan_video": 4}


def folder() -> Path:
    """Where node_runs.py has the reference write. It stands in for models/diffusion_models."""
    path = Path(os.environ["DCM_TEST_REFERENCE"])
    _, extensions = folder_paths.folder_names_and_paths["diffusion_models"]
    folder_paths.folder_names_and_paths["diffusion_models"] = ([str(path)], extensions)
    folder_paths.filename_list_cache.clear()
    return path


@dataclass(frozen=True)
class Published:
    """One kind of network: what its conditioning holds, and what the published code computes."""

    kind: str
    tensors: dict[str, Tensor]

    @property
    def family(self) -> str:
        return self.kind.removesuffix("_i2v")

    def load(self, name: str = "released/diffusion_pytorch_model.safetensors", weight_dtype: str = "default"):
        """(MODEL, DCM_EXPERT or None) from DCMLoadBackbone."""
        folder()
        return dcm_node("DCMLoadBackbone").execute(f"{self.kind}/{name}", weight_dtype).args

    def text(self, model, text: str = "text") -> list:
        """The CONDITIONING that the stock nodes would make; images go in as the VAE would encode them."""
        options = {}
        if "pooled" in self.tensors:
            options["pooled_output"] = self.tensors["pooled"]
        if "image" in self.tensors:
            options["concat_latent_image"] = model.model.process_latent_out(self.tensors["image"].clone())
            options["concat_mask"] = torch.ones(1, 1, *self.tensors["image"].shape[2:])
            options["concat_mask"][:, :, 0] = 0
        if "clip_vision" in self.tensors:
            vision = SimpleNamespace(penultimate_hidden_states=self.tensors["clip_vision"])
            options["clip_vision_output"] = vision
        return [[self.tensors[text], options]]

    def latents(self, model, sigmas: Tensor | None = None, text: str = "text", **options) -> Tensor:
        """What DCMKSampler makes in the published number of steps, or down the given sigmas; in the network's units."""
        texts = [self.text(model, text)] * 2
        steps = STEPS[self.family]
        done = dcm_node("DCMKSampler").execute(
            model, SEED, steps, 1.0, *texts, empty_latent(), sigmas=sigmas, **options
        )
        return model.model.process_latent_in(done[0]["samples"])

    def latents_by_stock_nodes(self, model) -> Tensor:
        sigmas = dcm_node("DCMSigmas").execute(model, STEPS[self.family])[0]
        euler, texts = comfy.samplers.sampler_object("euler"), [self.text(model)] * 2
        done = SamplerCustom().sample(model, True, SEED, 1.0, *texts, euler, sigmas, empty_latent())
        return model.model.process_latent_in(done[0]["samples"])

    def velocity(self, model, sigma: float) -> Tensor:
        """One call of the expert that `sigma` belongs to, at sigma * noise."""
        noise = torch.randn(empty_latent()["samples"].shape, generator=torch.manual_seed(SEED))
        clean = self.latents(model, torch.tensor([sigma, 0.0]))
        return noise - clean / sigma

    def outputs(self, model) -> dict[str, Tensor]:
        """Everything that is compared with the reference, by its names there."""
        return {
            "semantic": self.velocity(model, SEMANTIC_SIGMA),
            "detail": self.velocity(model, DETAIL_SIGMA),
            "latents": self.latents(model),
        }


@cache
def published(kind: str) -> Published:
    return Published(kind, load_file(folder() / f"{kind}.safetensors"))

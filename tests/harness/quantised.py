"""The tiny backbones in every way that the host quantises, as files have them; 0.3.64 knows none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

GROUP = {"convrot_groupsize": 64}  # of the rotation: the tiny networks' widths are no multiples of the usual 256


@dataclass(frozen=True)
class Format:
    """``layout`` of comfy-kitchen and what it quantises with; ``conf`` as a file says it beside the format's name."""

    name: str
    layout: str
    options: dict = field(default_factory=dict)
    conf: dict = field(default_factory=dict)


FORMATS = {
    "fp8_e4m3": Format("float8_e4m3fn", "TensorCoreFP8E4M3Layout", {"scale": "recalculate"}),
    "fp8_e5m2": Format("float8_e5m2", "TensorCoreFP8E5M2Layout", {"scale": "recalculate"}),
    "mxfp8": Format("mxfp8", "TensorCoreMXFP8Layout"),
    "nvfp4": Format("nvfp4", "TensorCoreNVFP4Layout"),
    "int8": Format("int8_tensorwise", "TensorWiseINT8Layout"),
    "int8_rows": Format("int8_tensorwise", "TensorWiseINT8Layout", {"per_channel": True}),
    "int8_convrot": Format(
        "int8_tensorwise",
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True} | GROUP,
        {"convrot": True} | GROUP,
    ),
    "w4a4_convrot": Format("convrot_w4a4", "TensorCoreConvRotW4A4Layout", GROUP, GROUP),
    "w4a8": Format("asym_w4a8_int8", "AsymW4A8Int8Layout", GROUP, {"group_size": 16} | GROUP),
}


@dataclass(frozen=True)
class Quantised:
    """A file's ``tensors`` without what says how they are quantised, which ``layers`` is; and the ``plain`` weights
    that they stand for."""

    tensors: dict[str, Tensor]
    layers: dict[str, dict]
    plain: dict[str, Tensor]

    @property
    def metadata(self) -> dict[str, str]:
        return {"_quantization_metadata": json.dumps({"layers": self.layers})}

    @property
    def with_confs(self) -> dict[str, Tensor]:
        """With a tensor in each layer that says how, as newer files have it in place of the header."""
        confs = {
            name: torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8) for name, conf in self.layers.items()
        }
        return self.tensors | {f"{name}.comfy_quant": conf for name, conf in confs.items()}


def quantised(network: nn.Module, format: Format, prefix: str = "") -> Quantised:
    """The Linear layers of the blocks quantised, which is what files of it do.

    But those in CogVideoX's norms, by whose columns as they are stored ComfyUI knows its sizes.
    """
    from comfy.quant_ops import QuantizedTensor

    result = Quantised({}, {}, {})
    layers = {name for name, module in network.named_modules() if isinstance(module, nn.Linear) and "blocks." in name}
    linear = {name for name in layers if ".norm" not in name}
    for name, tensor in network.state_dict().items():
        layer, _, key = name.rpartition(".")
        if key != "weight" or layer not in linear:
            result.tensors[prefix + name] = result.plain[name] = tensor.clone()
            continue
        packed = QuantizedTensor.from_float(tensor.clone(), format.layout, **format.options)
        result.tensors.update(packed.state_dict(f"{prefix}{layer}.weight"))
        result.plain[name] = packed.dequantize()
        result.layers[prefix + layer] = {"format": format.name} | format.conf
    return result

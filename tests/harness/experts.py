"""Small experts, and expert files that are wrong in one exact way."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dcm_core.expert.file import content_digest
from dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_core.expert.metadata import ExpertMetadata
from dcm_core.expert.tensor_names import to_tensors
from dcm_core.families.presets import preset

DIM, RANK = 8, 4
UNTOLD = {"rank": None, "alpha": None}  # of experts whose pairs are of several ranks


def metadata(**changes) -> ExpertMetadata:
    fields = {
        "expert": "detail",
        "family": "wan",
        "backbone": "wan2.1-t2v-tiny",
        "schedule": preset("wan", "official"),
        "guidance": 6.0,
        "rank": RANK,
        "alpha": 2.0 * RANK,
        "base_fingerprint": "wan:00:11",
        "trained_with": "dcm 0.1.0",
        "extra": {"modelspec.author": "someone"},
    }
    return ExpertMetadata(**(fields | changes))


def expert(seed: int = 0, dtype: torch.dtype = torch.float32, blocks: int = 2, **changes) -> Expert:
    """Low-rank pairs, a whole difference, a weight-only and a bias-only one, and bare Parameters."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    layers: dict[str, LowRank | Difference] = {
        f"blocks.{i}.{part}": LowRank(tensor(RANK, DIM), tensor(DIM, RANK), 2.0 * RANK)
        for i in range(blocks)
        for part in ("self_attn.q", "self_attn.o")
    }
    layers["time_embedding.0"] = Difference(tensor(DIM, DIM), tensor(DIM))
    layers["blocks.0.cross_attn.v"] = Difference(tensor(DIM, DIM))
    layers["head.head"] = Difference(bias=tensor(DIM))
    parameters = {f"blocks.{i}.modulation": tensor(1, 6, DIM) for i in range(blocks)}
    return Expert(metadata(**changes), layers, parameters)


def write_as_is(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """An expert file as a careless exporter would write it: the digest is right, whatever the content."""
    header = {key: value for key, value in header.items() if key != "dcm.digest"}
    save_file(tensors, path, metadata=header | {"dcm.digest": content_digest(header, tensors)})


def parts(one: Expert) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of an expert as its file holds them (without the digest)."""
    header = one.metadata.to_header()
    header["dcm.layers"] = str(len(one.layers) + len(one.parameters))
    header["dcm.parameters"] = ",".join(one.parameters)
    return to_tensors(one), header


def same_meaning(one: Expert, other: Expert) -> bool:
    """Equal dcm.* metadata (other fields are mere labels), and bit-equal tensors under equal keys."""
    left, right = to_tensors(one), to_tensors(other)
    headers = [
        {key: value for key, value in each.metadata.to_header().items() if key.startswith("dcm.")}
        for each in (one, other)
    ]
    return (
        headers[0] == headers[1]
        and one.parameters.keys() == other.parameters.keys()
        and left.keys() == right.keys()
        and all(left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left)
    )

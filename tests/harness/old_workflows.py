"""The workflows of former versions: what the page sent of each, and the latents that came of it.

    PYTHONPATH=tests:. python -m harness.old_workflows

keeps those of the present version in tests/fixtures, on every ComfyUI of this machine: once for each release. The
latents are those of tiny networks, which the machine's arithmetic rounds in its own way. So what stock nodes alone
give is kept too, and tells whether another machine rounds alike.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, load_file, save_file
from torch import Tensor

from .client import Client
from .hosts import TESTS
from .workflows import SMALL_VIDEO, place_checkpoints, with_stand_ins

FIXTURES = TESTS / "fixtures"
TINY_VIDEO = dict(zip(SMALL_VIDEO, (64, 64, 5), strict=True))
# The networks that stock nodes run alone -> the width of their text vectors.
PLAIN = {"wan": 4096, "hunyuan_video": 256, "cogvideox": 256}


@dataclass(frozen=True)
class OldWorkflow:
    """One workflow of one version."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def prompt(self) -> dict:
        """What the page sent then, in API format, as far as it makes latents; these are saved."""
        return json.loads((self.folder / "prompts" / f"{self.name}.json").read_text("utf-8"))

    def runs_with(self, checkpoints: dict[str, str]) -> bool:
        """Whether this ComfyUI has its network."""
        return "cogvideox" not in self.name or "cogvideox" in checkpoints


def of(folder: Path) -> list[OldWorkflow]:
    return [OldWorkflow(folder, file.stem) for file in sorted(folder.glob("*.json"))]


FOLDERS = sorted(FIXTURES.glob("workflows_*"))
OLD_WORKFLOWS = [workflow for folder in FOLDERS for workflow in of(folder)]
IDS = [f"{workflow.folder.name}-{workflow.name}" for workflow in OLD_WORKFLOWS]


def recorded(folder: Path, version: str) -> dict[str, Tensor]:
    """The latents on this version of ComfyUI, or on the last one before it that was recorded."""
    every = load_file(folder / "latents.safetensors")
    versions = sorted({name.partition("/")[0] for name in every}, key=numbers)
    nearest = ([each for each in versions if numbers(each) <= numbers(version)] or versions)[-1]
    return {name.partition("/")[2]: latent for name, latent in every.items() if name.startswith(f"{nearest}/")}


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def run_old(prompt: dict, client: Client, models: Path, checkpoints: dict[str, str]) -> dict[str, Tensor]:
    """The latents that a prompt gives with tiny networks: the id of the node that decodes them -> latent."""
    prompt = with_stand_ins(prompt)
    for node in prompt.values():
        if SMALL_VIDEO.keys() <= node["inputs"].keys():
            node["inputs"] |= TINY_VIDEO
    place_checkpoints(prompt, models, checkpoints)
    return run_for_latents(prompt, client)


def run_plain(client: Client, checkpoints: dict[str, str]) -> dict[str, Tensor]:
    """The latents of stock nodes alone, on each of the tiny networks that this ComfyUI has."""
    found = {}
    for network, width in PLAIN.items():
        if network in checkpoints:
            (found[f"plain {network}"],) = run_for_latents(plain_prompt(checkpoints[network], width), client).values()
    return found


def plain_prompt(checkpoint: str, width: int) -> dict:
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    linked = {"model": ["network", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0]}
    return {
        "network": {"class_type": "UNETLoader", "inputs": {"unet_name": checkpoint, "weight_dtype": "default"}},
        "text": {"class_type": "DCMTestConditioning", "inputs": {"seed": 0, "channels": width}},
        "empty": {"class_type": "EmptyHunyuanLatentVideo", "inputs": TINY_VIDEO | {"batch_size": 1}},
        "sampler": {"class_type": "KSampler", "inputs": sampler | linked},
        "save sampler": {"class_type": "SaveLatent", "inputs": saved(["sampler", 0])},
    }


def for_latents(prompt: dict) -> dict:
    """Only what makes the latents, and in the place of each node that decodes one, a node that saves it."""
    saves = {
        f"save {node_id}": {"class_type": "SaveLatent", "inputs": saved(node["inputs"]["samples"])}
        for node_id, node in prompt.items()
        if node["class_type"] == "VAEDecode"
    }
    needed, found = list(saves.values()), {}
    while needed:
        links = [value for value in needed.pop()["inputs"].values() if isinstance(value, list)]
        new = {node_id: prompt[node_id] for node_id, _ in links if node_id not in found}
        found |= new
        needed += new.values()
    return copy.deepcopy(found) | saves


def saved(samples: list) -> dict:
    return {"samples": samples, "filename_prefix": "latents/old"}


def run_for_latents(prompt: dict, client: Client) -> dict[str, Tensor]:
    run = client.run(prompt)
    assert run.status == "success", run.error
    nodes = [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveLatent"]
    files = {node_id: client.view(run.files(node_id)[0]) for node_id in nodes}
    return {node_id.removeprefix("save "): load(data)["latent_tensor"] for node_id, data in files.items()}


def record(folder: Path) -> None:
    """Writes the present workflows, their prompts and their latents; the prompts are those of the newest page."""
    from .browser import drop_workflows  # asks for a browser only when one is needed
    from .fixtures import write_bundles
    from .hosts import find_hosts
    from .server import HostServer
    from .workflows import WORKFLOWS

    (folder / "prompts").mkdir(parents=True)
    for file in WORKFLOWS:
        shutil.copy(file, folder)
    latents = {}
    for host in sorted(find_hosts(), key=lambda host: numbers(host.version), reverse=True):
        with tempfile.TemporaryDirectory() as base:
            server = HostServer(host, Path(base))
            server.start()
            try:
                if not latents:
                    dropped = drop_workflows(server.address, WORKFLOWS, run=[], screenshots=server.base)
                    write_prompts(folder, {name: seen["prompt"] for name, seen in dropped.items()})
                done = host.run("-m", "harness.tiny", str(server.models))
                checkpoints = json.loads(done.stdout.splitlines()[-1])
                checkpoints |= write_bundles(server.models / "diffusion_models")
                client = Client(server.address)
                found = run_plain(client, checkpoints)
                for workflow in of(folder):
                    if workflow.runs_with(checkpoints):
                        given = run_old(workflow.prompt, client, server.models, checkpoints)
                        found |= {f"{workflow.name} {node_id}": latent for node_id, latent in given.items()}
            finally:
                server.stop()
        latents |= {f"{host.version}/{name}": latent for name, latent in found.items()}
    save_file(latents, folder / "latents.safetensors")


def write_prompts(folder: Path, prompts: dict[str, dict]) -> None:
    for name, prompt in prompts.items():
        kept = for_latents(prompt)
        for node in kept.values():
            node.pop("_meta", None)
        (folder / "prompts" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from dcm_core import __version__

    record(FIXTURES / f"workflows_{__version__}")

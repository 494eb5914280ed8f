"""pytest fixtures: what asks for `host` runs once per ComfyUI; a server lives for the whole session."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

from .browser import drop_workflows, missing
from .client import Client
from .hosts import Host, find_hosts
from .server import HostServer
from .workflows import WORKFLOWS

NO_HOST = "no ComfyUI: set COMFYUI_PATH to the folder of one and run `make hosts`"
NO_BROWSER = "no browser: missing {}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        params = [pytest.param(host, id=host.version) for host in find_hosts()]
        lacks = missing() if "dropped" in metafunc.fixturenames else []
        reason = "; ".join([NO_HOST, *([NO_BROWSER.format(", ".join(lacks))] if lacks else [])])
        params = params or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
        metafunc.parametrize("host", params, indirect=True, scope="session")


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    if request.param.python is None:
        pytest.skip(f"the ComfyUI in {request.param.folder} has no environment yet: run `make hosts`")
    return request.param


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory):
    """A running server with this pack; one per host and session."""
    server = HostServer(host, tmp_path_factory.mktemp("comfy"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(server: HostServer) -> Client:
    return Client(server.address)


@pytest.fixture(scope="session")
def checkpoints(host: Host, server: HostServer) -> dict[str, str]:
    """Tiny random backbones, experts and bundles in the server's model folders: what each is -> its file name."""
    done = host.run("-m", "harness.tiny", str(server.models))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | write_bundles(server.models / "diffusion_models")


def write_bundles(folder: Path) -> dict[str, str]:
    """Bundles as released, by diffusers and peft: what each is -> its file name."""
    from reference.networks import KINDS  # diffusers takes long to import

    names = {}
    for family in ("wan", "hunyuan_video"):
        network = KINDS[family].add_detail_expert(KINDS[family].build())
        names[f"{family}_bundle"] = f"tiny_{family}_bundle.safetensors"
        save_file(network.state_dict(), folder / names[f"{family}_bundle"])
    return names


@pytest.fixture(scope="session")
def dropped(server: HostServer, checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Every shipped workflow dropped on the real page, those of Shapes also run there; see `drop_workflows`."""
    lacks = missing()
    if lacks:
        pytest.skip(NO_BROWSER.format(", ".join(lacks)))
    wanted = os.environ.get("DCM_SCREENSHOTS")
    folder = Path(wanted, server.host.version) if wanted else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    ready = ["shapes", "motion"]
    return drop_workflows(server.address, WORKFLOWS, run=ready, screenshots=folder, pictures=bool(wanted))

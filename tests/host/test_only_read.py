"""A ComfyUI that the tests use is only read: its folders for models, input and output are others."""

from __future__ import annotations

from pathlib import Path

from harness.hosts import Host

ASK = """
from harness import in_host
in_host.prepare()
import asyncio, folder_paths
asyncio.run(asyncio.run(in_host.load_pack().comfy_entrypoint()).get_node_list())  # makes models/dcm
for folder in (folder_paths.models_dir, folder_paths.get_input_directory(), folder_paths.get_output_directory()):
    print("IS", folder)
"""


def test_folders_are_not_the_hosts(host: Host):
    done = host.run("-c", ASK, DCM_TEST_BASE="")
    assert done.returncode == 0, done.stderr
    folders = [Path(line[3:]) for line in done.stdout.splitlines() if line.startswith("IS ")]
    assert len(folders) == 3
    assert not [folder for folder in folders if host.folder in folder.resolve().parents]
    assert not [folder for folder in folders if folder.exists()]  # gone with the process

"""A small client for the host's API: queue a prompt, listen to it, fetch what it made."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import websocket

PREVIEW_IMAGE = 1
ENDINGS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


class PromptRejected(ValueError):
    """The host refused the prompt; `details` is its answer."""

    def __init__(self, details: dict):
        super().__init__(json.dumps(details)[:2000])
        self.details = details


@dataclass
class Run:
    """What the host said about one prompt: `status` is success, error or interrupted."""

    prompt_id: str
    status: str = ""
    events: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)

    def progress(self, node: str) -> list[tuple[int, int]]:
        """(value, max) of every progress event of one node."""
        said = [data for kind, data in self.events if kind == "progress" and str(data["node"]) == node]
        return [(data["value"], data["max"]) for data in said]

    @property
    def error(self) -> str:
        """The exception as the page would show it, or an empty string."""
        said = [data for kind, data in self.events if kind == "execution_error"]
        return f"{said[0]['exception_type']}: {said[0]['exception_message']}" if said else ""

    def files(self, node: str) -> list[dict]:
        """The files a node has saved, as /view wants them, whatever the kind of output is called."""
        groups = [group for group in self.outputs.get(node, {}).values() if isinstance(group, list)]
        return [file for group in groups for file in group if isinstance(file, dict) and "filename" in file]


class Client:
    def __init__(self, address: str):
        self.address, self.client_id = address, uuid.uuid4().hex

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str):
        return json.loads(self.get(path))

    def post(self, path: str, data: dict) -> dict:
        body = json.dumps(data).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def view(self, file: dict) -> bytes:
        return self.get("/view?" + urllib.parse.urlencode(file))

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def run(self, prompt: dict, on_event: Callable[[str, dict], None] | None = None, seconds: float = 300) -> Run:
        """Queues an API-format prompt and listens until it has ended, in success or not.

        `on_event(kind, data)` is called for each message as it comes. Raises PromptRejected and TimeoutError.
        """
        address = f"ws://{self.address}/ws?clientId={self.client_id}"
        connection = websocket.create_connection(address, timeout=seconds)
        try:
            run = Run(self._queue(prompt))
            deadline = time.monotonic() + seconds
            while not run.status:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the prompt has not ended after {seconds} s; last heard: {run.events[-3:]}")
                self._hear(connection.recv(), run, on_event)
        finally:
            connection.close()
        run.outputs = self._history(run.prompt_id)["outputs"]
        return run

    def _hear(self, message: str | bytes, run: Run, on_event: Callable[[str, dict], None] | None) -> None:
        if isinstance(message, bytes):
            if int.from_bytes(message[:4], "big") == PREVIEW_IMAGE:
                run.previews.append(message[8:])
            return
        message = json.loads(message)
        kind, data = message["type"], message["data"]
        if data.get("prompt_id", run.prompt_id) != run.prompt_id:
            return
        run.events.append((kind, data))
        run.status = ENDINGS.get(kind, run.status)
        if on_event:
            on_event(kind, data)

    def _queue(self, prompt: dict) -> str:
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRejected(json.loads(error.read())) from None

    def _history(self, prompt_id: str) -> dict:
        """The finished prompt's entry, which the host writes a moment after its last message."""
        for _ in range(100):
            entries = self.get_json(f"/history/{prompt_id}")
            if prompt_id in entries:
                return entries[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} never came into the history")

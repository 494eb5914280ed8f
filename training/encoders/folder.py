"""A pipeline's folder in the layout of diffusers: found or downloaded, checked, digested, and loaded part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from dcm_core.errors import ExpertFileError, shortened
from dcm_core.files.format import tensor_size
from dcm_core.files.shards import open_weights
from dcm_core.files.stream import ByteRange

from .. import hub
from ..errors import ConfigError

_READ = (".json", ".safetensors", ".model", ".txt")
_HISTORY = ("_name_or_path", "_diffusers_version", "transformers_version")  # of a config: what changes nothing
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
# Of a large tensor so many pieces of so many bytes are digested: 22 GB of text encoders would take a minute and more.
_PIECES, _PIECE = 4, 4096


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a family's pipeline that encoders need, each a folder.

    ``models``: with weights, and what their config calls them: a class of diffusers or a model type of transformers.
    ``processors``: of images. ``described``: of which the config alone is read. ``example``: the name of such a
    pipeline on the hub.
    """

    models: Mapping[str, str]
    tokenizers: Sequence[str]
    example: str
    processors: Sequence[str] = ()
    described: Mapping[str, str] = field(default_factory=dict)

    @property
    def weightless(self) -> dict[str, str]:
        """Of the parts without weights that are downloaded whole, the file that has to be there."""
        return dict.fromkeys(self.tokenizers, "tokenizer_config.json") | dict.fromkeys(
            self.processors, "preprocessor_config.json"
        )

    def files(self) -> list[str]:
        """Patterns of what has to be downloaded."""
        whole = [f"{part}/*{ending}" for part in (*self.models, *self.weightless) for ending in _READ]
        return whole + [f"{part}/config.json" for part in self.described]


class PipelineFolder:
    """Made from a folder or a hub name. Raises ConfigError where a part is missing or of another kind."""

    def __init__(self, weights: str | None, layout: Layout):
        self.layout = layout
        self.path = self._found(weights)
        if missing := list(self._missing()):
            raise ConfigError(f"{weights} lacks {', '.join(missing)}. {self._by_hand(weights)}")
        for part, kind in {**layout.models, **layout.described}.items():
            config = self.config(part)
            if (is_now := config.get("_class_name") or config.get("model_type")) != kind:
                raise ConfigError(
                    f"{self.path / part} is of the kind {is_now}, where {kind} is needed: it belongs to another "
                    f"backbone. One that fits is {layout.example}."
                )

    def config(self, part: str) -> dict[str, Any]:
        """What the config of a part says. Raises ConfigError where it is none."""
        path = self.path / part / "config.json"
        try:
            return dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}. Download it again.") from None

    def dtype(self, part: str) -> torch.dtype:
        """In which the weights of a part are stored."""
        with open_weights(self.path / part) as source:
            return _DTYPES.get(max(source.infos.values(), key=tensor_size).dtype, torch.float32)

    def load(self, kind: Any, part: str, device: torch.device, **options: Any) -> Any:
        """A model of a class of diffusers or transformers, with the options of its ``from_pretrained``.

        Raises ConfigError where the weights do not fill it: the rest would be drawn at random, with a warning.
        """
        path = self.path / part
        try:
            model, told = kind.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{path} cannot be loaded: {error}") from error
        if missing := told["missing_keys"]:
            raise ConfigError(f"{path} lacks weights: {shortened(sorted(missing))}. Download it again.")
        return model.to(device).eval().requires_grad_(False)

    def tokenizer(self, part: str) -> Any:
        """Raises ConfigError where it cannot be read."""
        path = self.path / part
        try:
            return AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (ImportError, OSError, ValueError) as error:
            # of these packages transformers names another, for a format that it tries after theirs
            lacking = "" if (path / "tokenizer.json").is_file() else " It may lack sentencepiece or protobuf."
            raise ConfigError(f"{path} cannot be read: {str(error).strip()}{lacking}") from error

    def processor(self, part: str) -> Any:
        """Of images, by Pillow whatever else is installed. Raises ConfigError where it cannot be read."""
        path = self.path / part
        try:
            return AutoImageProcessor.from_pretrained(path, local_files_only=True, backend="pil")
        except (ImportError, OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {str(error).strip()}") from error

    def fingerprint(self, settings: str) -> str:
        """Changes with the weights, configs and what prepares for them, and with ``settings``, how they are used."""
        digest = hashlib.sha256(settings.encode())
        try:
            for part in self.layout.models:
                for piece in self._digested(part):
                    digest.update(piece)
        except ExpertFileError as error:
            raise ConfigError(f"{error} {self._by_hand(None)}") from None
        for part in self.layout.weightless:
            for file in sorted(each for each in (self.path / part).iterdir() if each.suffix in _READ):
                digest.update(_named(part, file.name))
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def _digested(self, part: str) -> Iterator[bytes]:
        config = {key: value for key, value in self.config(part).items() if key not in _HISTORY}
        yield _named(part, config)
        with open_weights(self.path / part) as source:
            for name in sorted(source.infos):  # in whichever shard each is
                info = source.infos[name]
                yield _named(name, info.dtype, *info.shape)
                yield from _sampled(source.rows(name))

    def _found(self, weights: str | None) -> Path:
        if weights is None:
            raise ConfigError(
                "The autoencoder and text encoders are a download of their own: name a folder or hub name such as "
                f"{self.layout.example}, with --weights here and data.options.encoders in a configuration."
            )
        if Path(weights).is_dir():
            return Path(weights)
        if not hub.is_name(weights):
            raise ConfigError(f"{weights} is neither a folder nor the name of a model on the hub.")
        return hub.fetched(weights, self.layout.files(), self._by_hand(weights))

    def _missing(self) -> Iterator[str]:
        for part in (*self.layout.models, *self.layout.described):
            if not (self.path / part / "config.json").is_file():
                yield f"{part}/config.json"
        for part in self.layout.models:
            if not any((self.path / part).glob("*.safetensors")):
                yield f"the .safetensors of {part}"
        for part, file in self.layout.weightless.items():
            if not (self.path / part / file).is_file():
                yield f"{part}/{file}"

    def _by_hand(self, weights: str | None) -> str:
        """What to do where nothing can be downloaded, or something is missing."""
        model = weights if weights and not Path(weights).is_dir() else self.layout.example
        folders = [*self.layout.models, *self.layout.weightless]
        configs = "".join(f", and {part}/config.json" for part in self.layout.described)
        return (
            f"By hand: download the folders {', '.join(folders)}{configs} of https://huggingface.co/{model}/tree/main "
            "into one folder, and name that folder."
        )


def _named(*values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _sampled(tensor: ByteRange) -> Iterator[bytes]:
    """All bytes of a small tensor, and of a large one pieces from all over it."""
    step = max(_PIECE, tensor.size // _PIECES)
    for start in range(tensor.start, tensor.stop, step):
        tensor.file.seek(start)
        yield tensor.file.read(min(_PIECE, tensor.stop - start))

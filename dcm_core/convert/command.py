"""The command line ``python -m dcm_core.convert``: arguments in, files out, one line for each mistake."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from ..backbone.file import BackboneFile
from ..errors import ExpertFileError
from ..expert.file import load_expert
from ..files.shards import open_weights
from .backbone import DTYPES, convert_backbone
from .detail import export_bundle, export_detail
from .low_rank import Loss
from .progress import size_text
from .report import as_text, inspect
from .semantic import export_change, export_whole
from .stamp import stamp
from .stamp_options import add_passport_options, passport_from

_EXAMPLES = """\
examples:
  what is this file?
    python -m dcm_core.convert inspect DCM_WAN.safetensors
  the detail expert of a released bundle, for models/dcm (or models/loras), and its backbone, for
  models/diffusion_models:
    python -m dcm_core.convert export DCM_WAN.safetensors wan_detail.safetensors
    python -m dcm_core.convert to-comfy DCM_WAN.safetensors wan_semantic.safetensors --dtype bf16
  the semantic expert as a LoRA over the backbone it was made from:
    python -m dcm_core.convert export DCM_WAN.safetensors wan_semantic_lora.safetensors \\
        --semantic low-rank --rank 64 --base Wan2.1-T2V-1.3B-Diffusers
  back to the released layout:
    python -m dcm_core.convert to-diffusers wan_semantic.safetensors bundle.safetensors --expert wan_detail.safetensors
  the noise levels of a speed LoRA into its file, for DCM KSampler and DCM Sigmas:
    python -m dcm_core.convert stamp turbo.safetensors --sigmas 1 0.9375 0.8333 0.625 --shift 5 --sampler euler --cfg 1

A file may be a .safetensors file, one of several shards, their index, or a diffusers folder.
exit status: 0 done, 1 the message says what is wrong with a file, 2 wrong arguments, 130 interrupted
"""
_KINDS = ("whole", "difference", "low-rank")
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    _write_any_name()
    options = _parser().parse_args(arguments)
    _stop_cleanly()
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # inspect FILE | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dcm_core.convert",
        description="Convert video backbones, released DCM bundles and expert files. Backbones of any size take "
        "little memory, a detail expert about its own size; a target appears whole or not at all.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run, help: str, target: bool = True, source: str = "file, shard, index or folder to read"
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=help, description=help, epilog=_EXAMPLES, formatter_class=parser.formatter_class
        )
        one.set_defaults(run=run, parser=one)
        one.add_argument("source", metavar="FILE", help=source)
        if target:
            one.add_argument("target", metavar="OUT", help="the .safetensors or .sft file to write")
            one.add_argument("--force", action="store_true", help="replace OUT if it exists")
        return one

    dtype = {"choices": DTYPES, "help": "cast the weights; without it they keep every bit"}
    command("inspect", _inspect, "say what a file is", target=False).add_argument(
        "--json", action="store_true", help="print it as JSON"
    )
    export = command("export", _export, "write an expert as a file of its own: the detail one, or with --semantic")
    export.add_argument("--semantic", choices=_KINDS, help="write the semantic expert, in this form")
    export.add_argument("--base", help="difference, low-rank: the backbone the semantic expert was made from")
    export.add_argument("--rank", type=_positive, help="low-rank: columns kept of each weight's difference")
    export.add_argument("--compact", action="store_true", help="detail: small HunyuanVideo form that only DCM reads")
    export.add_argument("--exact", action="store_true", help="detail: replaced layers bit for bit, for the way back")
    export.add_argument("--dtype", choices=DTYPES, help="semantic: precision of the tensors written")
    command("to-comfy", _to_comfy, "write a backbone for ComfyUI's models/diffusion_models").add_argument(
        "--dtype", **dtype
    )
    back = command("to-diffusers", _to_diffusers, "write a backbone in diffusers' naming, or a released bundle")
    back.add_argument("--expert", help="a detail expert's file: write a released bundle of backbone and expert")
    back.add_argument("--dtype", **dtype)
    told = "write into a speed LoRA's file which noise levels it is for"
    add_passport_options(command("stamp", _stamp, told, target=False, source="the LoRA, a .safetensors file"))
    return parser


def _inspect(options: argparse.Namespace) -> None:
    said = inspect(options.source)
    print(json.dumps(said, indent=1) if options.json else as_text(said))
    sys.stdout.flush()
    if said.get("wrong"):
        raise ExpertFileError(f"{options.source}: {said['wrong']}")


def _export(options: argparse.Namespace) -> None:
    _check_export(options)
    target = _target(options)
    with _opened(options.source) as backbone:
        if options.semantic is None:
            _export_detail(options, backbone, target)
        elif options.semantic == "whole":
            export_whole(backbone, target, options.dtype)
        else:
            with _opened(options.base) as base:
                losses = export_change(backbone, base, target, options.rank, options.dtype)
            if backbone.layout.dtype == "F64" and not options.dtype:
                _say("written in fp32: an expert file holds no float64")
            if options.rank:
                print(_loss_table(losses, options.rank))
    _say("{}: {}", target, size_text(target.stat().st_size))


def _loss_table(losses: dict[str, Loss], rank: int) -> str:
    width = max(map(len, losses))
    lines = [f"{name:{width}}  {loss.relative:7.2%} lost" for name, loss in losses.items() if loss.rest]
    whole = Loss.together(losses.values()).relative
    return "\n".join([*lines, f"{whole:.2%} of the whole difference is lost at rank {rank}"])


def _export_detail(options: argparse.Namespace, bundle: BackboneFile, target: Path) -> None:
    if bundle.layout.kind != "released":
        raise ExpertFileError(
            f"{options.source} is {bundle.layout.describe()}: only a released bundle holds a detail expert. For a "
            "semantic one give --semantic."
        )
    expert = export_detail(bundle, target, options.exact, options.compact)
    _say("{} layers; low-rank pairs at scale 2 (the file does not say: it is the rule)", len(expert.layers))


def _check_export(options: argparse.Namespace) -> None:
    """Options that say nothing together are mistakes, not to be ignored."""
    kind = options.semantic
    wrong = [
        (kind in ("difference", "low-rank") and not options.base, f"--semantic {kind} needs --base BACKBONE"),
        (kind == "low-rank" and not options.rank, "--semantic low-rank needs --rank"),
        (kind != "low-rank" and options.rank, "--rank is for --semantic low-rank"),
        (kind in (None, "whole") and options.base, "--base is for --semantic difference or low-rank"),
        (kind and (options.compact or options.exact), "--compact and --exact are for the detail expert"),
        (kind is None and options.dtype, "--dtype is for --semantic: the detail expert keeps its precision"),
    ]
    for condition, text in wrong:
        if condition:
            options.parser.error(text)


def _to_comfy(options: argparse.Namespace) -> None:
    target = _target(options)
    with _opened(options.source) as backbone:
        if backbone.layout.kind == "released":
            export_whole(backbone, target, options.dtype)
            _say("this backbone is the bundle's semantic expert; 'export' writes its detail expert")
        else:
            convert_backbone(backbone, target, "comfy", options.dtype)


def _to_diffusers(options: argparse.Namespace) -> None:
    if options.expert and options.dtype:
        options.parser.error("--dtype is for a backbone alone: a bundle keeps every bit")
    target = _target(options)
    with _opened(options.source) as backbone:
        if options.expert:
            for warning in export_bundle(backbone, load_expert(options.expert), target):
                _say("warning: {}", warning)
        else:
            convert_backbone(backbone, target, "diffusers", options.dtype)


def _stamp(options: argparse.Namespace) -> None:
    passport = passport_from(options)
    if stamp(options.source, passport):
        _say("{}: its former stamp is replaced", options.source)
    _say("{}: noise levels for {} steps are written", options.source, ", ".join(map(str, passport.sigmas)))


def _opened(path: str) -> BackboneFile:
    backbone = BackboneFile.open(path)
    if backbone.layout.doubt:
        _say("warning: {}: {}", path, backbone.layout.doubt)
    return backbone


def _target(options: argparse.Namespace) -> Path:
    target = Path(options.target)
    if target.suffix.lower() not in (".safetensors", ".sft"):
        raise ExpertFileError(f"{target}: the name has to end in .safetensors, or no program will list the file")
    if target.exists():
        inputs = [options.source, getattr(options, "base", None), getattr(options, "expert", None)]
        files = [file for each in inputs if each and os.path.exists(each) for file in open_weights(each).paths]
        if any(os.path.samefile(file, target) for file in files):
            raise ExpertFileError(f"{target} is read and written: give the result another name")
        if not options.force:
            raise FileExistsError(f"{target} exists: give another name, or --force to replace it")
    return target


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _say(text: str, *values: object) -> None:
    print(text.format(*values), file=sys.stderr, flush=True)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _write_any_name() -> None:
    """A file may have a name that the console has no letters for: those are written as ``\\u0444``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop_cleanly() -> None:
    """A closed terminal or a ``kill`` ends like Ctrl-C, so that no half file stays behind."""

    def stop(*_) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)

"""Does an expert fit a backbone? A full report instead of the first mismatch, nothing dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import ExpertFileError, shortened
from ..families.presets import FAMILIES, find_family
from .fingerprint import Shapes, fingerprint, told_apart
from .host_names import in_host_names
from .layers import Expert
from .metadata import ExpertMetadata
from .stamp import other_backbone


@dataclass
class Report:
    """What ``check`` found, by the backbone's parameter names.

    ``misshaped`` holds the expert's and the backbone's shape, ``biasless`` the biases that layers replaced whole lack.
    ``norms`` are Frobenius norms of what each layer or bare Parameter is changed by at strength 1. ``errors`` concern
    the expert as a whole.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    biasless: list[str] = field(default_factory=list)
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        wrong = self.missing, self.unexpected, self.doubled, self.biasless, self.misshaped, self.errors
        return not any(wrong)

    def describe(self) -> str:
        """The report in words: one line each for what is wrong or doubtful, and a line of totals."""
        lines = list(self.errors)
        for what in ("missing", "unexpected", "doubled"):
            if names := getattr(self, what):
                lines.append(f"{what}: {shortened(names)}")
        if self.biasless:
            lines.append(f"replaced layers without their bias (export the expert again): {shortened(self.biasless)}")
        if self.misshaped:
            lines.append(f"wrong shape: {shortened(self.shapes_told())}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        total = sum(norm**2 for norm in self.norms.values()) ** 0.5
        return "\n".join([*lines, f"{len(self.matched)} tensors match, norm of all differences {total:.4g}"])

    def shapes_told(self) -> list[str]:
        """Of each tensor in another shape, the expert's and the backbone's."""
        return [f"{name} {list(a)} for {list(b)}" for name, (a, b) in self.misshaped.items()]

    def raise_if_wrong(self) -> None:
        """Raise ExpertFileError with the whole description unless everything matched."""
        if not self.ok:
            raise ExpertFileError(
                f"the expert does not fit this backbone:\n{self.describe()}\n"
                "Choose an expert made for this backbone, or the backbone it was made for."
            )


def check(
    expert: Expert,
    shapes: Shapes,
    norms: Mapping[str, Tensor] | None = None,
    family: str | None = None,
    semantic: ExpertMetadata | None = None,
) -> Report:
    """Compare an expert with a backbone, given by its logical shapes and (optionally) its norm tensors.

    ``shapes`` and ``norms`` as ``fingerprint.logical_shapes`` and ``norm_tensors`` give them, under
    ComfyUI's names. ``semantic`` is the semantic expert that runs with a detail expert: where its file
    names the fingerprint of the model it makes, that one counts. Wrong family or shapes are errors, other
    norm values a warning only, because fine-tuned copies of the right backbone are welcome.
    """
    report = Report()
    expert = in_host_names(expert, shapes)
    changed = expert.shapes()
    names = [name for name, _ in changed]
    report.biasless = biasless(expert, shapes)
    report.doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    for name, shape in changed:
        if name not in shapes:
            report.unexpected.append(name)
        elif tuple(shapes[name]) != shape:
            report.misshaped[name] = (shape, tuple(shapes[name]))
        else:
            report.matched.append(name)
    report.missing = sorted(_expected(expert.metadata, shapes).difference(names))
    report.norms = {name: norm for name, norm in expert.norms().items() if norm is not None}
    zero = [name for name, norm in report.norms.items() if norm == 0]
    if zero:
        report.warnings.append(f"all zero, so without effect (an untrained expert?): {shortened(zero)}")
    _compare_fingerprints(report, expert.metadata, shapes, norms, family, semantic)
    return report


def _expected(metadata: ExpertMetadata, shapes: Shapes) -> set[str]:
    if not metadata.complete:
        return set()
    if metadata.expert == "semantic":
        return set(shapes)
    low_rank, replaced = find_family(metadata.family).keymap.detail_layers(shapes)
    biases = {f"{name}.bias" for name in replaced} & shapes.keys()
    return {f"{name}.weight" for name in (*low_rank, *replaced)} | biases


def biasless(expert: Expert, shapes: Shapes) -> list[str]:
    """Biases of the backbone that belong to layers which the expert replaces, and that it does not have.

    A layer is replaced by a new weight, or in a detail expert by the difference of one that the family replaces. With
    the backbone's own bias such a layer would be neither the one nor the other.
    """
    family = FAMILIES.get(expert.metadata.family)
    replaced = family.keymap.detail_layers(shapes)[1] if family and expert.metadata.expert == "detail" else []
    lost = [
        f"{name}.bias"
        for name, layer in expert.layers.items()
        if not layer.pairs and layer.shapes.keys() == {"weight"} and (layer.replaces or name in replaced)
    ]
    return [name for name in lost if name in shapes and name not in expert.parameters]


def _compare_fingerprints(
    report: Report,
    metadata: ExpertMetadata,
    shapes: Shapes,
    norms: Mapping[str, Tensor] | None,
    family: str | None,
    semantic: ExpertMetadata | None,
) -> None:
    if family is not None and metadata.family != family:
        report.errors.append(f"the expert is for the {metadata.family} family, the backbone is {family}")
        return
    if other := other_backbone(metadata.extra, metadata.family):
        report.warnings.append(
            f"the file is for the {metadata.family} family, but its metadata names {other} as its base model: make "
            "sure that it is the file you meant"
        )
    if not metadata.base_fingerprint:
        report.warnings.append("the file does not say which backbone it was made for (no dcm.base_fingerprint)")
        return
    made = semantic.fingerprint if semantic else ""
    here = made or fingerprint(metadata.family, shapes, norms)
    wanted = metadata.base_fingerprint.split(":")
    found = here.split(":")
    if wanted[:2] != found[:2]:
        report.errors.append(
            f"the expert was made for a backbone with other layers ({metadata.backbone or 'not named'}), this one is "
            f"{_variant(metadata.family, shapes)}. {_unlike(report)}"
        )
    elif told_apart(metadata.base_fingerprint, here):
        report.warnings.append(
            f"the expert was made for {metadata.backbone or 'a backbone'} with other weights of the same shape "
            "than these (a fine-tune?): results may be worse than with the backbone (or semantic "
            "expert) it was made for"
        )


def _unlike(report: Report) -> str:
    """Which layers of the two backbones are unlike, as far as the expert tells: its fingerprint is one for them all."""
    unlike = [*report.shapes_told(), *(f"{name}, which is not here" for name in report.unexpected)]
    unlike += [f"{name}, which is only here" for name in report.missing]
    if unlike:
        return f"They differ in {shortened(unlike, 4)}."
    return "All layers that it changes are alike, so they differ in others: the input layer, or blocks for images."


def _variant(family: str, shapes: Shapes) -> str:
    try:
        return find_family(family).keymap.variant(shapes)
    except (ValueError, LookupError):  # a part of a backbone, or one of no known kind
        return "of no size that is known here"

"""The detail expert: texture and edges, from kappa down to the last noise level (DCM, arXiv 2506.03123, stage 2).

Low-rank adapters and replaced layers over the frozen semantic expert, trained by consistency, an adversary that looks
through the frozen teacher's features, and feature matching.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dcm_core.expert.file import load_expert
from dcm_core.losses import feature_matching, hinge_discriminator, hinge_generator, pseudo_huber
from dcm_core.sampling import euler, with_experts

from ..config import ConfigError, OptimizerConfig
from ..data.batch import Batch
from ..discriminator import Discriminator
from ..export import export_detail
from ..noise import draw_indices, drawn_like, noised, renoised
from ..optim import Learner
from .base import LossMap
from .distillation import Distillation, DistillationOptions


@dataclass(kw_only=True)
class DiscriminatorOptions(OptimizerConfig):
    """The discriminator's optimizer, and its width (channels of the hidden 1x1 convolutions)."""

    lr: float = 1e-5
    betas: tuple[float, float] = (0.0, 0.999)
    width: int = 1024


@dataclass(kw_only=True)
class DetailOptions(DistillationOptions):
    """rank, alpha: of the low-rank adapters; alpha / rank scales their output.
    semantic: the semantic expert's file; none means this run's semantic stage.
    adversarial, matching: weights of the hinge loss and of feature matching, 0 and 0 for neither
        (published: 0.5 and 1.0 for Wan, 0.5 and 0.1 for HunyuanVideo).
    adversarial_start: iteration from which the discriminator and both weights act.
    real: what the discriminator takes for real: the student's own "target" as published, or "data". On small networks
        fake and target are near identical and the discriminator learns nothing from them.
    feature_stride: the teacher's features are taken after blocks 0, stride, 2 stride, ...
    """

    rank: int = 128
    alpha: float = 256.0
    semantic: str | None = None
    adversarial: float = 0.5
    matching: float = 1.0
    adversarial_start: int = 0
    real: str = "target"
    feature_stride: int = 2
    discriminator: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)


class Detail(Distillation):
    """Minimises L_consistency + adversarial * L_hinge + matching * L_features below kappa, down to sigma_min."""

    Options = DetailOptions

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if self.options.real not in ("target", "data"):
            raise ConfigError(f"options.real={self.options.real!r} is unknown; use target or data.")
        self.discriminator = self._build_discriminator().to(self.device)
        self.learners["discriminator"] = Learner(self.discriminator, self.options.discriminator)

    def build_student(self) -> nn.Module:
        path = Path(self.options.semantic or Path(self.config.output) / "semantic" / "semantic.safetensors")
        if not path.is_file():
            raise ConfigError(
                f"There is no semantic expert at {path}. "
                "Run stage=semantic first, or name its file in options.semantic."
            )
        self.semantic_file = path
        model = self._semantic()
        self.backbone.add_adapter(model, self.options.rank, self.options.alpha, self.config.seed)
        return model

    def _semantic(self) -> nn.Module:
        model = self.backbone.load(self.teacher_file)
        self.backbone.apply(model, load_expert(self.semantic_file))
        return model

    def _build_discriminator(self) -> Discriminator:
        channels, layers = self.backbone.feature_shape(self.teacher, self.options.feature_stride)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return Discriminator(channels, layers, self.options.discriminator.width)

    def spans(self) -> list[range]:
        return [self.schedule.training_range("detail")]

    def turns(
        self, batch: Batch, generator: torch.Generator, iteration: int
    ) -> Iterator[tuple[str, LossMap]]:
        options = self.options
        jumps = self.pairs(batch, generator)
        compared = jumps.per_interval() if options.per_interval else jumps
        losses = {"consistency": pseudo_huber(compared.prediction, compared.target, options.huber_c)}
        if iteration < options.adversarial_start or not (options.adversarial or options.matching):
            yield "student", losses
            return

        count = len(batch.latents)
        level = self.schedule.grid.previous(draw_indices(self.spans()[0], count, generator)).to(batch.latents)
        noise = drawn_like(batch.latents, generator)
        fake = self._features(renoised(jumps.prediction, noise, jumps.end, level), level, batch.text)
        with torch.no_grad():
            target = self._features(renoised(jumps.target, noise, jumps.end, level), level, batch.text)
            real = target
            if options.real == "data":
                real = self._features(noised(batch.latents, noise, level), level, batch.text)
        with _frozen(self.discriminator):
            losses["adversarial"] = options.adversarial * hinge_generator(
                self.discriminator(fake.tokens, fake.grid)
            )
        losses["matching"] = options.matching * feature_matching(fake.velocities, target.velocities)
        yield "student", losses

        fake_logits = self.discriminator([layer.detach() for layer in fake.tokens], fake.grid)
        real_logits = self.discriminator(real.tokens, real.grid)
        yield "discriminator", {"discriminator": hinge_discriminator(fake_logits, real_logits)}

    def sample(self, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        semantic = self.network(self._semantic().to(self.device), text)
        experts = with_experts(semantic, self.network(self.student, text), self.schedule)
        return euler(experts, noise, self.schedule.sigmas(steps))

    def export(self, path: Path) -> None:
        export_detail(path, self, self._semantic(), load_expert(self.semantic_file).metadata.fingerprint)

    def _features(self, x: Tensor, sigma: Tensor, text: Tensor):
        return self.backbone.features(self.teacher, x, sigma, text, self.options.feature_stride)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Gradient passes through the network to its input, none is collected in its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)

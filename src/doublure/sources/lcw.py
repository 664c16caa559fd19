"""Images of a trained LCW generator (Latent Cramer-Wold): no discriminator, no label, no sampling.

    x = Dec(M(e)),   e ~ N(0, I)

`train-generator lcw` makes the generator from images that may be used once: the data's own where
that is allowed, or any that stand in for them. See `tasks.generation.cramer_wold` for how. Images
come in the generator's size and colours, and are scaled and turned grey or coloured where the
network wants others.

The other ways to draw a code are the baselines that M has to beat, from the same file:
    normal         Dec(e), e ~ N(0, I): the Cramer-Wold auto-encoder alone, where the codes were
                   asked to be normal (auto_encoder.normality=1); of others no fair rival
    gaussian       Dec(z), z ~ N(m, C), mean and covariance of codes of training images
    interpolated   Dec(u z + (1 - u) z'), codes z, z' of two training images, u ~ U(0, 1)

Knop, Mazur, Spurek, Tabor, Podolak: Generative models with kernel distance in data space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.core.protocols import StreamContext
from doublure.data.checkpoints import CheckpointError
from doublure.data.generator_file import read_generator
from doublure.data.resizing import colour_change
from doublure.nets.cramer_wold import CramerWoldGenerator, CramerWoldPlan
from doublure.nets.network import freeze
from doublure.sources.procedural import ProceduralStream

METHOD: Literal["lcw"] = "lcw"
Codes = Literal["generated", "normal", "gaussian", "interpolated"]

# Rec. 601 luma, as Pillow turns colours into grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class LCW:
    """Source: what a trained generator makes of noise.

    Args:
        generator: the folder of a `train-generator` run, or its generator.json.
        codes: where the codes come from that are decoded: "generated" by the latent generator;
            "normal", "gaussian" and "interpolated" are its baselines.
    """

    generator: str = ""
    codes: Codes = "generated"

    def __post_init__(self) -> None:
        one_of("way to draw codes", self.codes, get_args(Codes))

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.generator,)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> ProceduralStream:
        if not self.generator:
            raise ValueError(
                "lcw draws from a trained generator; name its run with --set generator=RUN, made "
                "by `doublure train-generator lcw`"
            )
        generator = load_generator(self.generator).to(context.device)
        colour_change(generator.plan.channels, context.contract.channels)

        def paint(num_images: int, rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                images = generator.decode(draw_codes(self.codes, generator, num_images, rng))
            return fit_images(images, context.contract.size, context.contract.channels)

        return ProceduralStream(paint, context, rng)


def load_generator(path: str) -> CramerWoldGenerator:
    """Return the generator that `train-generator lcw` wrote, frozen.

    Raises:
        CheckpointError: a file is missing, damaged, or not such a generator.
    """
    plan, state = read_generator(path, METHOD, CramerWoldPlan)
    codes = state.get("codes")
    try:
        with torch.device("meta"):  # no first weights, which nobody would see, are drawn
            generator = CramerWoldGenerator(plan, 0 if codes is None else len(codes))
        generator.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the plan beside them") from error
    frozen = freeze(generator)
    assert isinstance(frozen, CramerWoldGenerator)
    return frozen


def draw_codes(
    kind: Codes, generator: CramerWoldGenerator, count: int, rng: torch.Generator
) -> Float[Tensor, "count latent"]:
    """Return codes of one kind, from a generator of numbers on the generator's device."""
    return _DRAWN[kind](generator, count, rng)


def fit_images(
    images: Float[Tensor, "batch own_channels own_height own_width"],
    size: tuple[int, int],
    channels: int,
) -> Float[Tensor, "batch channels height width"]:
    """Return images in another size and number of channels, of which one or three are known."""
    if images.shape[1] != channels:
        grey = images if channels == 3 else _grey(images)
        images = grey.expand(-1, channels, -1, -1)
    if tuple(images.shape[2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    return images.contiguous()


def _grey(images: Tensor) -> Tensor:
    weights = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).clamp(0, 1)


def _noise(count: int, width: int, rng: torch.Generator) -> Tensor:
    return torch.randn((count, width), generator=rng, device=rng.device)


def _generated(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes: Tensor = generator.latent(_noise(count, generator.plan.noise, rng))
    return codes


def _normal(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    return _noise(count, generator.plan.latent, rng)


def _gaussian(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes = generator.codes
    # A root of the covariance that also stands for codes that fill fewer dimensions than they have.
    values, vectors = torch.linalg.eigh(torch.cov(codes.T).reshape(codes.shape[1], -1))
    root = vectors * values.clamp(min=0).sqrt()
    made: Tensor = codes.mean(0) + _noise(count, generator.plan.latent, rng) @ root.T
    return made


def _interpolated(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes = generator.codes
    picks = torch.randint(len(codes), (2, count), generator=rng, device=rng.device)
    kept = torch.rand((count, 1), generator=rng, device=rng.device)
    return kept * codes[picks[0]] + (1 - kept) * codes[picks[1]]


_DRAWN: dict[str, Callable[[CramerWoldGenerator, int, torch.Generator], Tensor]] = {
    "generated": _generated,
    "normal": _normal,
    "gaussian": _gaussian,
    "interpolated": _interpolated,
}

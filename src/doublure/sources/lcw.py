"""Images of a trained LCW generator (Latent Cramer-Wold): no discriminator, no label, no sampling.

    x = Dec(M(e)),   e ~ N(0, I)

`train-generator lcw` trains the generator on images that are available once: the original data if
allowed, or substitutes. See `tasks.generation.cramer_wold`. Images have the generator's size and
channels; they are resized and converted to grey or colour if the network needs it.

The other ways to draw a code are baselines for M, from the same file:
    normal         Dec(e), e ~ N(0, I): the Cramer-Wold auto-encoder alone; a fair baseline only if
                   its codes were trained to be normal (auto_encoder.normality=1)
    gaussian       Dec(z), z ~ N(m, C), mean and covariance of the codes of training images
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

# Rec. 601 luma, Pillow's conversion of colour to grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class LCW:
    """Source: images of a trained generator.

    Args:
        generator: the folder of a `train-generator` run, or its generator.json.
        codes: source of the codes to decode: "generated" by the latent generator; "normal",
            "gaussian" and "interpolated" are baselines.
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
                "lcw needs a trained generator; set its run with --set generator=RUN, the output "
                "of `doublure train-generator lcw`"
            )
        generator = load_generator(self.generator).to(context.device)
        colour_change(generator.plan.channels, context.contract.channels)

        def paint(num_images: int, rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                images = generator.decode(draw_codes(self.codes, generator, num_images, rng))
            return fit_images(images, context.contract.size, context.contract.channels)

        return ProceduralStream(paint, context, rng)


def load_generator(path: str) -> CramerWoldGenerator:
    """Return the generator that `train-generator lcw` wrote, frozen, from its run.

    Raises:
        CheckpointError: a file is missing, damaged, or not such a generator.
    """
    plan, state = read_generator(path, METHOD, CramerWoldPlan)
    codes = state.get("codes")
    try:
        with torch.device("meta"):  # initial weights would be overwritten: do not draw them
            generator = CramerWoldGenerator(plan, 0 if codes is None else len(codes))
        generator.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not match the plan in the file") from error
    frozen = freeze(generator)
    assert isinstance(frozen, CramerWoldGenerator)
    return frozen


def draw_codes(
    kind: Codes, generator: CramerWoldGenerator, count: int, rng: torch.Generator
) -> Float[Tensor, "count latent"]:
    """Return codes of one kind; `rng` must be on the generator's device."""
    return _DRAW_CODES[kind](generator, count, rng)


def fit_images(
    images: Float[Tensor, "batch own_channels own_height own_width"],
    size: tuple[int, int],
    channels: int,
) -> Float[Tensor, "batch channels height width"]:
    """Return images in another size and number of channels, both either 1 or 3."""
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


def _draw_generated(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes: Tensor = generator.latent(_noise(count, generator.plan.noise, rng))
    return codes


def _draw_normal(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    return _noise(count, generator.plan.latent, rng)


def _draw_gaussian(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes = generator.codes
    # A root of the covariance by eigenvalues, which also works if the covariance is singular.
    values, vectors = torch.linalg.eigh(torch.cov(codes.T).reshape(codes.shape[1], -1))
    root = vectors * values.clamp(min=0).sqrt()
    drawn: Tensor = codes.mean(0) + _noise(count, generator.plan.latent, rng) @ root.T
    return drawn


def _draw_interpolated(generator: CramerWoldGenerator, count: int, rng: torch.Generator) -> Tensor:
    codes = generator.codes
    picks = torch.randint(len(codes), (2, count), generator=rng, device=rng.device)
    weight = torch.rand((count, 1), generator=rng, device=rng.device)
    return weight * codes[picks[0]] + (1 - weight) * codes[picks[1]]


_DRAW_CODES: dict[str, Callable[[CramerWoldGenerator, int, torch.Generator], Tensor]] = {
    "generated": _draw_generated,
    "normal": _draw_normal,
    "gaussian": _draw_gaussian,
    "interpolated": _draw_interpolated,
}

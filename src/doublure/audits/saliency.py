"""Saliency audit: how much of a heat map is of the network, and how much of the settings?

    D_factor = 1 - median over images of Spearman(S, S'),   S and S' differ in that factor alone
    gap      = D_factor - D_seed                            beyond what another seed does

Factors are the baseline image, the hyper-parameters and the method. Maps of a network with random
weights say what of a map comes from the image alone. Maps of another network (a student, the same
in few bits) under the same masks say what compression has left of them.

Differs from the paper: its body was not at hand, only its abstract and claims. The grid of methods
and hyper-parameters, the seed floor and all measures are this library's choice. Seeds are repeated
at the first baseline only.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.audits import saliency_measures as measures
from doublure.audits.baselines import BASELINES, baseline_image, neutral_image, neutrality
from doublure.audits.explainers import EXPLAINERS, Explainer, Rise
from doublure.audits.saliency_maps import Answer
from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.seeding import child_seed, from_seed
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze

CARD = Card(
    paper="Brunke, Agrawal, George: Evaluating input perturbation methods for interpreting CNNs "
    "and saliency map comparison, arXiv:2101.10977",
    needs=("logits", "images"),
)

MODEL, RANDOM = "model", "random"
STANDARD = "standard"
CONTROLS = ("random map", "centre", "edges", "random weights")
Output = Literal["probability", "logit"]
# Tiles along the shorter side that deletion curves take away.
_TILES = 8


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Which map: of which network, made how. The name is the key of its array in maps.npz."""

    method: str
    baseline: str
    variant: str = STANDARD
    seed: int = 0
    network: str = MODEL

    @property
    def name(self) -> str:
        """All five, with slashes."""
        return f"{self.network}/{self.method}/{self.baseline}/{self.variant}/{self.seed}"


@dataclass(frozen=True, kw_only=True)
class SaliencyAudit:
    """Which maps are made and compared.

    Args:
        methods: of `explainers.EXPLAINERS`; the first one's maps are also scored on every baseline.
        baselines: of `baselines.BASELINES`; seeds, variants and other networks are compared at the
            first.
        num_masks: of RISE; fewer than 1,000 are too few for a seed floor near 0.9 at 32 pixels.
        num_seeds: maps of each random method that differ in their seed alone.
        output: what is explained, "probability" or "logit" of the class.
        num_points: of a deletion curve, beside its start.
        batch_size: images a pass; it changes no result.
    """

    methods: tuple[str, ...] = ("rise", "occlusion", "integrated-gradients")
    baselines: tuple[str, ...] = ("mean", "black", "grey", "own-mean", "blur", "noise")
    num_masks: int = 1000
    num_seeds: int = 2
    output: Output = "probability"
    num_points: int = 16
    batch_size: int = 64

    def __post_init__(self) -> None:
        one_of("output", self.output, get_args(Output))
        for name in ("num_masks", "num_points", "batch_size"):
            positive(name, getattr(self, name))
        if self.num_seeds < 2:
            raise ValueError(f"num_seeds must be 2 or more, to know a floor; got {self.num_seeds}")
        for name, least, known in (
            ("method", 1, EXPLAINERS),
            ("baseline", 2, dict.fromkeys(BASELINES)),
        ):
            chosen = getattr(self, f"{name}s")
            for item in chosen:
                one_of(name, item, known)
            if len(set(chosen)) != len(chosen) or len(chosen) < least:
                raise ValueError(f"{name}s must be {least} or more, none twice; got {chosen}")

    def explainer(self, method: str, variant: str = STANDARD) -> Explainer:
        """Return the settings of a method."""
        standard = EXPLAINERS[method]()
        if isinstance(standard, Rise):
            standard = replace(standard, num_masks=self.num_masks)
        return standard if variant == STANDARD else standard.variants()[variant]

    def configurations(self, networks: Sequence[str] = ()) -> list[Configuration]:
        """Return every map that is made of an image.

        Args:
            networks: others than the model, as the random one.
        """
        first, made = self.baselines[0], []
        for method in self.methods:
            explainer = self.explainer(method)
            made += [Configuration(method=method, baseline=name) for name in self.baselines]
            if explainer.random:
                made += [
                    Configuration(method=method, baseline=first, seed=seed)
                    for seed in range(1, self.num_seeds)
                ]
            made += [
                Configuration(method=method, baseline=first, variant=variant)
                for variant in explainer.variants()
            ]
            made += [
                Configuration(method=method, baseline=first, network=name) for name in networks
            ]
        return made

    def passes(self, size: tuple[int, int], networks: Sequence[str] = ()) -> int:
        """Return passes for an image, a gradient counted as three."""
        maps = sum(
            self.explainer(item.method, item.variant).passes(size)
            for item in self.configurations(networks)
        )
        curves = 2 * (len(self.methods) + len(CONTROLS)) + len(self.baselines)
        return maps + curves * len(self.baselines) * (self.num_points + 1)


def without_gradients(settings: SaliencyAudit) -> SaliencyAudit:
    """Return the settings without what needs gradients of the network."""
    methods = tuple(name for name in settings.methods if not EXPLAINERS[name]().gradients)
    if not methods:
        raise ValueError(
            "this network gives no gradients, and all of the methods need them; "
            "take --methods rise,occlusion,lime"
        )
    baselines = tuple(name for name in settings.baselines if name != "neutral")
    return replace(settings, methods=methods, baselines=baselines)


def gives_gradients(network: nn.Module, image: Tensor) -> bool:
    """Return whether a network's answer has a gradient with respect to its input."""
    image = image[None].detach().requires_grad_()
    with torch.enable_grad():
        try:
            answer = network(image)
        except RuntimeError:  # exported programs that refuse to record
            return False
        return bool(answer.requires_grad)


def randomised(network: Network, seed: int) -> Network:
    """Return a copy with random weights: each one's own values in random order.

    Tensors of one dimension (biases, statistics of BatchNorm) stay, so that activations keep about
    their sizes.
    """
    made = copy.deepcopy(network)
    rng = from_seed(child_seed(seed, "random weights"))
    weights = [part for part in made.state_dict().values() if part.ndim > 1]
    if not weights:
        raise ValueError("the network holds no weights to put in random order; give another REF")
    with torch.no_grad():
        for part in weights:
            order = torch.randperm(part.numel(), generator=rng).to(part.device)
            part.copy_(part.flatten()[order].view_as(part))
    return made


class MapMaker:
    """Makes maps and curves of one image at a time; the networks are asked frozen copies.

    Args:
        networks: by name; "model" is the one that is audited.
    """

    def __init__(self, settings: SaliencyAudit, networks: Mapping[str, Network], seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.networks = {name: freeze(network) for name, network in networks.items()}
        contract = networks[MODEL].contract
        self.device = device_of(networks[MODEL])
        self.mean = torch.tensor(contract.mean)
        self._neutral: Tensor | None = None
        if "neutral" in settings.baselines:
            start = self.mean.view(-1, 1, 1).expand(-1, *contract.size).to(self.device)
            self._neutral = neutral_image(self.networks[MODEL], start)

    def answer(self, network: str, target: int) -> Answer:
        """Return the score of a class in one of the networks."""
        asked = self.networks[network]

        def probability(images: Tensor) -> Tensor:
            return F.softmax(asked(images), -1)[:, target]

        def logit(images: Tensor) -> Tensor:
            scores: Tensor = asked(images)[:, target]
            return scores

        return probability if self.settings.output == "probability" else logit

    def baseline(self, name: str, image: Tensor, place: int) -> Tensor:
        """Return a baseline of an image; what is random in it hangs on the image's place alone."""
        if name == "neutral":
            assert self._neutral is not None
            return self._neutral
        rng = from_seed(child_seed(self.seed, "baseline", name, place))
        return baseline_image(name, image, self.mean, rng).to(self.device)

    def map(
        self,
        image: Float[Tensor, "channels height width"],
        place: int,
        target: int,
        configuration: Configuration,
    ) -> Float[Tensor, "height width"]:
        """Return one map; masks hang on seed and method alone, and are the same for all images."""
        image = image.to(self.device)
        explainer = self.settings.explainer(configuration.method, configuration.variant)
        return explainer.explain(
            self.answer(configuration.network, target),
            image,
            self.baseline(configuration.baseline, image, place),
            from_seed(child_seed(self.seed, configuration.method, configuration.seed)),
            self.settings.batch_size,
        )

    def neutrality(self, image: Tensor, place: int, target: int) -> dict[str, list[float]]:
        """Return how neutral each baseline is by itself: see `baselines.neutrality`."""
        image = image.to(self.device)
        shown = [self.baseline(name, image, place) for name in self.settings.baselines]
        with torch.no_grad():
            logits = self.networks[MODEL](torch.stack(shown))
        return {name: values.tolist() for name, values in neutrality(logits, target).items()}

    def curves(
        self,
        image: Float[Tensor, "channels height width"],
        place: int,
        target: int,
        maps: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return deletion curves under every baseline.

        Args:
            maps: of this image, by the name of their configuration.

        Returns:
            ranked: [explainers and controls, MoRF and LeRF, baselines, points].
            own: MoRF of the first method's maps: [baseline of the map, of the curve, points].
        """
        settings, first = self.settings, self.settings.baselines[0]
        explained = [
            maps[Configuration(method=name, baseline=first).name] for name in settings.methods
        ]
        random = Configuration(method=settings.methods[0], baseline=first, network=RANDOM)
        rng = from_seed(child_seed(self.seed, "controls", place))
        controls = [*control_maps(image, rng), maps[random.name]]
        ranked = [self._scored(image, place, target, each) for each in [*explained, *controls]]
        own = [
            self._scored(
                image,
                place,
                target,
                maps[Configuration(method=settings.methods[0], baseline=name).name],
                (True,),
            )[0]
            for name in settings.baselines
        ]
        return {"ranked": torch.stack(ranked), "own": torch.stack(own)}

    def _scored(
        self,
        image: Tensor,
        place: int,
        target: int,
        saliency: Tensor,
        orders: Sequence[bool] = (True, False),
    ) -> Tensor:
        settings = self.settings
        image = image.to(self.device)
        side = max(1, round(min(image.shape[1:]) / _TILES))
        rng = from_seed(child_seed(self.seed, "ties", place))
        order = measures.tile_order(saliency, side, rng)
        answer = self.answer(MODEL, target)
        rows = [
            measures.deletion_curve(
                answer,
                image,
                self.baseline(name, image, place),
                order,
                settings.num_points,
                settings.batch_size,
                most_first=most_first,
            )
            for most_first in orders
            for name in settings.baselines
        ]
        return torch.stack(rows).view(len(orders), len(settings.baselines), -1)


def control_maps(
    image: Float[Tensor, "channels height width"], rng: torch.Generator
) -> list[Float[Tensor, "height width"]]:
    """Return maps that know nothing of the network: noise, a Gaussian at the centre, edges."""
    _, height, width = image.shape
    noise = torch.rand(height, width, generator=rng, dtype=torch.float64)
    rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
    centre = torch.exp(-2 * (rows[:, None] ** 2 + columns**2))
    grey = image.double().cpu().mean(0)[None, None]
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)
    kernels = torch.stack([sobel, sobel.T])[:, None]
    edges = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return [noise, centre, edges.square().sum((0, 1)).sqrt()]

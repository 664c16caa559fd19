"""The reference stream: images of mixed families, alike for every transfer set of a teacher.

Its features under the teacher are divided into clusters once; a transfer set is asked how many of
them it reaches. The images follow from the contract alone, never from a user's seed, so that two
reports can be compared.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.audits.transfer_tally import Watch
from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import child, from_seed
from doublure.sources.flat import Flat
from doublure.sources.leaves import Leaves
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders

FAMILIES: tuple[Source, ...] = (
    Shaders(),
    Leaves(),
    Flat(gradient=True),
    Noise(),
    Noise(distribution="uniform"),
)

_SEED = 0
_IMAGES = 2560
_BATCH = 128
_CLUSTERS_PER_CLASS = 10
# A cluster of fewer reference images than this is an accident.
_IMAGES_PER_CLUSTER = 8


def reference_centres(
    teacher: nn.Module, contract: InputContract, device: torch.device
) -> Float[Tensor, "clusters features"] | None:
    """Return the centres of the clusters; None for a teacher whose features are unknown.

    Args:
        teacher: frozen; see `nets.network.freeze`.
    """
    watch = Watch(teacher, contract.classes)
    features = []
    for images in _reference_batches(contract, device):
        seen = watch.answer(images).features
        if seen is None:
            return None
        features.append(seen)
    return cluster(torch.cat(features), _CLUSTERS_PER_CLASS * contract.classes)


def cluster(
    features: Float[Tensor, "images features"], most: int
) -> Float[Tensor, "clusters features"]:
    """Return the centres of at most `most` clusters, the same for the same features."""
    from sklearn.cluster import MiniBatchKMeans  # takes over a second; only who scores waits

    distinct = len(torch.unique(features, dim=0))
    clusters = max(1, min(most, len(features) // _IMAGES_PER_CLUSTER, distinct))
    means = MiniBatchKMeans(  # type: ignore[no-untyped-call]  # scikit-learn's
        n_clusters=clusters, batch_size=1024, n_init=3, random_state=_SEED
    )
    means.fit(features.numpy())
    return torch.from_numpy(means.cluster_centers_).float()


def _reference_batches(contract: InputContract, device: torch.device) -> Iterator[Tensor]:
    # Shaders know one channel and three; what takes others is compared with the rest.
    known = contract.channels in (1, 3)
    families = [s for s in FAMILIES if known or not isinstance(s, Shaders)]
    steps = _IMAGES // len(families) // _BATCH
    context = StreamContext(contract=contract, device=device, batch_size=_BATCH, steps=steps)
    rng = from_seed(_SEED)
    for i, source in enumerate(families):
        stream = source.open(context, None, child(rng, "reference", i))
        for step in range(steps):
            yield stream.draw(step, None).images

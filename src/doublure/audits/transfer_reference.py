"""The reference stream: images of mixed families, equal for all transfer sets of a teacher.

The teacher's features of it are clustered once; the coverage of a transfer set is the share of
clusters that it reaches. The images depend on the contract only, never on a user's seed, so that
reports are comparable.
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
# A cluster with fewer reference images than this is ignored.
_IMAGES_PER_CLUSTER = 8


def reference_centres(
    teacher: nn.Module, contract: InputContract, device: torch.device
) -> Float[Tensor, "clusters features"] | None:
    """Return the centres of the clusters; None for a teacher with unknown features.

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
    from sklearn.cluster import MiniBatchKMeans  # slow to import, so only here

    distinct = len(torch.unique(features, dim=0))
    clusters = max(1, min(most, len(features) // _IMAGES_PER_CLUSTER, distinct))
    means = MiniBatchKMeans(  # type: ignore[no-untyped-call]  # scikit-learn's
        n_clusters=clusters, batch_size=1024, n_init=3, random_state=_SEED
    )
    means.fit(features.numpy())
    return torch.from_numpy(means.cluster_centers_).float()


def _reference_batches(contract: InputContract, device: torch.device) -> Iterator[Tensor]:
    # Shaders have one or three channels; for other contracts they are omitted.
    known = contract.channels in (1, 3)
    families = [s for s in FAMILIES if known or not isinstance(s, Shaders)]
    steps = _IMAGES // len(families) // _BATCH
    context = StreamContext(contract=contract, device=device, batch_size=_BATCH, steps=steps)
    rng = from_seed(_SEED)
    for i, source in enumerate(families):
        stream = source.open(context, None, child(rng, "reference", i))
        for step in range(steps):
            yield stream.draw(step, None).images

"""The noisy layer: codes for a generator from class embeddings, not from noise alone.

Class y has an embedding e_y; a block of codes, one for each class, is

    z_y = W BN(e_y) + b        W ~ N(0, 1), new for every batch, trained with the images

so that the noise is in the layer: several blocks with separate weights give diverse images of each
class. The embeddings are the normalised rows of the teacher's last linear layer, which are close
for similar classes; without such a layer, they are random orthogonal vectors.

Tran et al., arXiv:2310.00258. Differs from the paper: its embeddings are of the classes' names, by
a language model that has seen images (CLIP).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from doublure.nets.generators import normal_


def label_embeddings(
    teacher: nn.Module, classes: int, rng: torch.Generator
) -> Float[Tensor, "classes width"]:
    """Return an embedding of length 1 for each class."""
    heads = [
        layer
        for layer in teacher.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == classes
    ]
    if heads:
        return F.normalize(heads[-1].weight.detach().float(), dim=1)
    rows = torch.empty(classes, classes)
    return nn.init.orthogonal_(rows, generator=rng)


class FreeCodes(nn.Module):
    """Codes as trainable parameters, and their classes."""

    labels: Tensor

    def __init__(
        self, codes: Float[Tensor, "batch latent"], labels: Int64[Tensor, " batch"]
    ) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self) -> Float[Tensor, "batch latent"]:
        return self.codes


class NoisyLayers(nn.Module):
    """Several noisy layers over the same embeddings, each giving one code for each class."""

    embeddings: Tensor
    labels: Tensor

    def __init__(
        self,
        embeddings: Float[Tensor, "classes width"],
        latent: int,
        num_images: int,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        classes, width = embeddings.shape
        blocks = -(-num_images // classes)
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.norm = nn.BatchNorm1d(width).to(embeddings.device)
        self.weight = nn.Parameter(torch.empty(blocks, latent, width, device=embeddings.device))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, latent, device=embeddings.device))
        # Labels 0, 1, ..., repeated for each layer.
        turns = torch.arange(num_images, device=embeddings.device) % classes
        self.register_buffer("labels", turns, persistent=False)
        normal_(self.weight, 1.0, rng)
        self._num_images = num_images

    def forward(self) -> Float[Tensor, "batch latent"]:
        told = self.norm(self.embeddings)
        codes = torch.einsum("kw,blw->bkl", told, self.weight) + self.bias
        return codes.flatten(0, 1)[: self._num_images]

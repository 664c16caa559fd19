"""He initialisation: keep the variance of a ReLU network's activations from layer to layer.

A convolution with k x k kernels and n_out outputs draws its weights from N(0, 2 / (k^2 n_out));
normalisation layers start as the identity. All weights are drawn from torch's global generator; the
caller sets its seed (in a forked generator state).
"""

from torch import nn


def he_normal_(network: nn.Module) -> None:
    """Initialise every convolution of `network`; keep torch's initialisation of linear layers."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            # Fan-out keeps the gradients' variance (He et al. 2015, sec. 2.2, eq. 14).
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)

"""A small convolutional network: three blocks of convolution, BatchNorm and ReLU.

Widths w, 2w, 4w at strides 1, 2, 2, then global average pooling and one linear layer. It is our
own: the smallest network with BatchNorm statistics that learns 8 x 8 digits and 32 x 32 pictures.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.nets.he_normal import he_normal_


class ConvNet(nn.Module):
    """Keys conv{1,2,3}, bn{1,2,3}, linear.

    Args:
        width: channels of the first block.
    """

    def __init__(self, *, width: int, classes: int, channels: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.linear = nn.Linear(4 * width, classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(inputs)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits

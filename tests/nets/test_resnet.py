import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.nets.network import Network, count_parameters
from doublure.nets.resnet import BasicBlock, CifarResNet, ResNet, ZeroPadShortcut


def cifar_resnet(depth=20, width=1.0, classes=10, channels=3):
    return CifarResNet(depth=depth, width=width, classes=classes, channels=channels)


def public_weights(folder, name):
    (path,) = (folder / "cifar10-resnet").glob(f"{name}-*.th")
    weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    return {key.removeprefix("module."): value for key, value in weights.items()}


# Table 6 of the paper rounds these to 0.27M, 0.46M, 0.66M, 0.85M, 1.7M.
@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(20, 269722), (32, 464154), (44, 658586), (56, 853018), (110, 1727962)],
)
def test_parameter_counts_are_the_published_ones(depth, parameters):
    assert count_parameters(cifar_resnet(depth)) == parameters


# 18 and 34 layers with a small stem; the 8x4 and 32x4 of the distillation literature, 100 classes.
@pytest.mark.parametrize(
    ("blocks", "widths", "classes", "parameters"),
    [
        ((2, 2, 2, 2), (64, 64, 128, 256, 512), 10, 11173962),
        ((3, 4, 6, 3), (64, 64, 128, 256, 512), 10, 21282122),
        ((1, 1, 1), (32, 64, 128, 256), 100, 1233540),
        ((5, 5, 5), (32, 64, 128, 256), 100, 7433860),
    ],
)
def test_projected_networks_have_the_published_counts(blocks, widths, classes, parameters):
    network = ResNet(blocks=blocks, widths=widths, classes=classes, channels=3)
    assert count_parameters(network) == parameters


def test_keys_are_those_of_the_public_checkpoints():
    keys = {key.rsplit(".", 1)[0] for key in cifar_resnet(8).state_dict()}
    blocks = {
        f"layer{stage}.0.{layer}"
        for stage in (1, 2, 3)
        for layer in ("conv1", "bn1", "conv2", "bn2")
    }
    assert keys == blocks | {"conv1", "bn1", "linear"}


def test_only_blocks_that_change_shape_have_a_projection():
    network = ResNet(blocks=(2, 2, 2, 2), widths=(64, 64, 128, 256, 512), classes=10, channels=3)
    projections = {key for key in network.state_dict() if key.endswith("downsample.0.weight")}
    assert projections == {f"layer{stage}.0.downsample.0.weight" for stage in (2, 3, 4)}


def test_the_zero_padded_shortcut_by_hand():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    out = ZeroPadShortcut(1, 4, stride=2)(image)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[0, 1], torch.tensor([[0.0, 2.0], [6.0, 8.0]]))
    assert out[0, [0, 2, 3]].eq(0).all()


def test_a_block_whose_last_scale_is_zero_is_the_rectified_identity():
    block = BasicBlock(4, 4, 1, None)
    torch.nn.init.zeros_(block.bn2.weight)
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(image), image.relu())


def test_a_width_multiplies_every_stage():
    network = cifar_resnet(8, width=0.5)
    assert [network.get_submodule(f"layer{s}.0.conv2").out_channels for s in (1, 2, 3)] == [
        8,
        16,
        32,
    ]
    assert network(torch.rand(2, 3, 9, 9)).shape == (2, 10)


def test_a_depth_between_the_published_ones_is_refused():
    with pytest.raises(ValueError, match=r"depth must be 6n\+2 .* got 18"):
        cifar_resnet(18)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        cifar_resnet(20, width=0.0)


def test_widths_that_miss_a_stage_are_refused():
    with pytest.raises(ValueError, match="widths must name the stem and 3 stages, got 3 numbers"):
        ResNet(blocks=(1, 1, 1), widths=(8, 8, 8), classes=2, channels=3)


@pytest.mark.parametrize("depth", [20, 56])
def test_the_public_checkpoints_load_key_by_key(real_data, depth):
    network = cifar_resnet(depth)
    network.load_state_dict(public_weights(real_data, f"resnet{depth}"), strict=True)


@pytest.mark.slow
def test_the_public_checkpoint_recognises_most_test_images(real_data):
    body = cifar_resnet(20)
    body.load_state_dict(public_weights(real_data, "resnet20"))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    contract = InputContract(size=(32, 32), channels=3, mean=mean, std=std, classes=10)
    images, labels = first_test_images(real_data / "cifar10-jpeg.tar.xz", per_class=50)
    with torch.no_grad():
        answers = Network(body, contract).eval()(images).argmax(1)
    # 81.0 % on all 10 000 of these JPEG-coded images; three standard errors of 500 are 5 points.
    assert (answers == labels).float().mean().item() == pytest.approx(0.81, abs=0.055)


def first_test_images(archive, per_class):
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if folder.startswith("test/") and int(name.removesuffix(".jpg")) < per_class:
                images.append(np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read()))))
                labels.append(folder.removeprefix("test/"))
    classes = sorted(set(labels))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.tensor([classes.index(label) for label in labels])

"""How the pictures of the pages are drawn: readable on light and dark, small, the same every time.

A picture is `WIDTH` CSS pixels wide and drawn at twice that, or less where it is full of images.
Its ground is transparent, its ink a grey that stands out from white and from near-black alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from doublure.core.protocols import Batch, InputContract, Loss, Outputs, Split, StreamContext
from doublure.core.seeding import from_seed
from doublure.data.digits import digits
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network, freeze
from doublure.networks import load
from doublure.objectives.weighted import AnyObjective, open_loss
from doublure.verbs.train import train

HERE = Path(__file__).resolve().parent
WIDTH = 520
# Contrast above 4 both with white and with the dark page.
INK, FAINT = "#76808c", "#76808c66"
STUDENT, TEACHER, THIRD = "#3f7fe0", "#c9772b", "#2a9d74"
COLOUR = InputContract(size=(64, 64), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=10)
_DOTS = 100  # a CSS inch, for text sizes
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": FAINT,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
}


@contextmanager
def picture(name: str, height: int, *, colours: int = 0, scale: float = 2.0) -> Iterator[Figure]:
    """Yield a figure of `height` CSS pixels; it is written to `name`.png when the block ends.

    Args:
        colours: of the palette that a picture full of images is reduced to; 0 keeps all.
        scale: pixels drawn for a CSS pixel.
    """
    torch.set_num_threads(1)
    with matplotlib.rc_context(_STYLE):
        size = (WIDTH / _DOTS, height / _DOTS)
        figure = Figure(figsize=size, dpi=scale * _DOTS, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
        yield figure
        canvas = FigureCanvasAgg(figure)
        figure.patch.set_alpha(0)
        canvas.draw()
        drawn = Image.fromarray(numpy.asarray(canvas.buffer_rgba()))
    if colours:
        drawn = drawn.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    drawn.save(HERE / f"{name}.png", optimize=True)


def tile(axes: Axes, image: Tensor, title: str = "", below: str = "") -> None:
    """Show one image in [0, 1], C x H x W, without ticks or frame."""
    pixels = image.detach().clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
    smooth = min(image.shape[1:]) >= 32
    axes.imshow(
        pixels, cmap="gray", vmin=0, vmax=1, interpolation="antialiased" if smooth else "nearest"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, loc="center", pad=3)
    if below:
        axes.set_xlabel(below, labelpad=3)


def plain(axes: Axes) -> None:
    """Leave nothing of the axes but what is drawn in them."""
    axes.set_axis_off()


def label(axes: Axes, text: str) -> None:
    """Write beside a row of tiles what it shows."""
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, ha="right", va="center")


def context(
    contract: InputContract, batch_size: int, *, steps: int = 100, split: Split = "train"
) -> StreamContext:
    """Return a place on the CPU to open a source at."""
    return StreamContext(
        contract=contract,
        device=torch.device("cpu"),
        batch_size=batch_size,
        steps=steps,
        split=split,
    )


def digits_teacher(steps: int = 600) -> Network:
    """Return a network that has learnt scikit-learn's digits, frozen; the same every time."""
    return _trained("builtin/digits", steps)


def residual_digits_teacher(steps: int = 300) -> Network:
    """Return a ResNet-20 that has learnt scikit-learn's digits, frozen; the same every time."""
    return _trained("builtin/digits", steps, net="builtin/resnet20")


def digits_pair(steps: int = 60) -> tuple[Network, Network, Tensor, Tensor]:
    """Return teacher, a student of so many steps, frozen, and 60 digits with labels, by class."""
    pixels, labels = digits("test")
    first = torch.cat([(labels == digit).nonzero()[:6, 0] for digit in range(10)])
    images = torch.as_tensor(pixels)[first].permute(0, 3, 1, 2).float() / 255
    student = _trained("builtin/digits", steps, net="builtin/convnet-6")
    return digits_teacher(), student, images, labels[first]


def compared(
    objective: AnyObjective,
    student: Network,
    teacher: Network,
    batch: Batch,
    *,
    steps: int = 0,
) -> tuple[Loss, Outputs, Outputs]:
    """Return an objective's loss, its own layers trained for some steps, and both answers."""
    loss_fn = open_loss(objective, student, teacher, batch, from_seed(0))
    with (
        FeatureRecorder(student, loss_fn.features.student) as ours,
        FeatureRecorder(teacher, loss_fn.features.teacher) as its,
        torch.no_grad(),
    ):
        traces = ours.record(batch.images), its.record(batch.images)
    if steps:
        optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.01)
        for _ in range(steps):
            loss = torch.stack(list(loss_fn(*traces, batch).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss_fn, *traces


def matrix(axes: Axes, values: Tensor, title: str, below: str = "") -> None:
    """Show a matrix, dark where it is large; without ticks or frame."""
    axes.imshow(values.detach().numpy(), cmap="Blues", interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="center", pad=3)
    if below:
        axes.set_xlabel(below, labelpad=3)


def shares(classes: Tensor, num_classes: int) -> Sequence[float]:
    """Return which share of the answers each class has."""
    return (torch.bincount(classes, minlength=num_classes) / len(classes)).tolist()


def digits_in_colour(steps: int = 300) -> Network:
    """Return a network that has learnt the digits at 32 x 32 in three channels, frozen."""
    with TemporaryDirectory() as folder:
        pixels, labels = digits("train")
        sized = [Image.fromarray(image[..., 0]).resize((32, 32)) for image in pixels]
        images = numpy.stack([numpy.asarray(image.convert("RGB")) for image in sized])
        numpy.savez(Path(folder) / "digits.npz", x=images, y=labels.numpy())
        return _trained(str(Path(folder) / "digits.npz"), steps)


def _trained(data: str, steps: int, net: str = "builtin/convnet-16") -> Network:
    with TemporaryDirectory() as folder:
        train(
            net,
            data,
            out=Path(folder) / "teacher",
            steps=steps,
            batch_size=128,
            device="cpu",
            precision="float32",
        )
        network = freeze(load(str(Path(folder) / "teacher")))
    assert isinstance(network, Network)
    return network

"""The head of a digits network, widened by five classes."""

from drawing import INK, digits_teacher, picture

from doublure.compress.expand_classifier import ExpandClassifier
from doublure.core.seeding import from_seed


def main() -> None:
    teacher = digits_teacher()
    wide = ExpandClassifier(num_new=5)(teacher, None, from_seed(0))
    weights = wide.body.linear.weight.detach().numpy()
    reach = abs(weights).max()
    with picture("expand_classifier", 200) as figure:
        axes = figure.subplots()
        axes.imshow(weights, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
        axes.axhline(teacher.contract.classes - 0.5, color=INK)
        axes.set_xlabel("features")
        axes.set_ylabel("classes")


if __name__ == "__main__":
    main()

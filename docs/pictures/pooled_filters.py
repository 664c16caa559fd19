"""Filters of a digits network, and what they are pooled to."""

from drawing import INK, digits_teacher, picture

from doublure.nets.pooled_conv import pooled_weight


def main() -> None:
    weight = digits_teacher().body.conv1.weight.detach()[:8]
    rows = {"3 x 3": weight, "2 x 2": pooled_weight(weight, "split")}
    with picture("pooled_filters", 170) as figure:
        grid = figure.subplots(2, len(weight))
        for axes_row, (name, filters) in zip(grid, rows.items(), strict=True):
            limit = float(filters.abs().max())
            for axes, one in zip(axes_row, filters, strict=True):
                axes.imshow(one[0].numpy(), cmap="coolwarm", vmin=-limit, vmax=limit)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            axes_row[0].set_ylabel(name, color=INK)


if __name__ == "__main__":
    main()

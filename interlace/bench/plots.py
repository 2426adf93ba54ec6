"""The pictures of benchmark results; matplotlib comes with the extra `bench`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from interlace.errors import InvalidRequestError

_COLOURS = ("#3366cc", "#dd7722", "#888888", "#229966", "#aa3377", "#ccaa11")


def lines(
    path: Path, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, *, log_y: bool = False
) -> None:
    """One line a name, as PNG. Raises `InvalidRequestError` where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise InvalidRequestError("plots need matplotlib; pip install 'interlace[bench]'", "plot") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), dpi=120)
    for colour, (name, points) in zip(_COLOURS * len(series), series.items(), strict=False):
        axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", color=colour, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)

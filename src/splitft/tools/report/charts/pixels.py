"""Figures as pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from PIL.Image import Image

DOTS = 144  # an inch of a PNG
COLOURS = 128  # of a PNG: charts have few, and it takes a third of the bytes


def pixels(figure: Figure, dots: int) -> Image:
    """Return a figure drawn with `dots` an inch; nothing lies behind one without a frame."""
    from PIL.Image import frombuffer

    figure.set_dpi(dots)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels in scripts that the font lacks
        canvas.draw()
    return frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))


def few_colours(picture: Image, dots: int) -> bytes:
    """Return a picture as PNG."""
    from PIL.Image import Quantize

    few = picture.convert("RGB").quantize(COLOURS, method=Quantize.FASTOCTREE)
    palette = few.getpalette() or []
    colours = [palette[start : start + 3] for start in range(0, len(palette), 3)]
    # A mean of nearly white pixels is not white, and would show on a white page.
    few.putpalette([part for colour in colours for part in ((255,) * 3 if min(colour) > 250 else colour)])
    file = io.BytesIO()
    few.save(file, "PNG", dpi=(dots, dots))
    return file.getvalue()

"""A verb's own figure, where matplotlib is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.setting import missing
from common.text import say


def draw(make: Callable[[Any], Any], folder: Path, name: str) -> None:
    """Write the figure that make(common.plots) returns as NAME.svg and NAME.png; one line on stderr without matplotlib.

    Raises OSError where the folder can't be written.
    """
    try:
        from matplotlib import rc_context

        from common import plots
    except ModuleNotFoundError as error:
        say(f"no figure: {missing(error, 'report')}")
        return
    with rc_context(plots.STYLE):
        plots.write_figure(make(plots), folder, name)

"""A verb's own figure, where matplotlib is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.process.install import missing
from common.text import in_one_line, say


def draw(make: Callable[[Any], Any], folder: Path, name: str) -> bool:
    """Write the figure that make(common.show.figures) returns as NAME.svg and NAME.png.

    Returns False, after one line on stderr, where it can't be drawn or written; without matplotlib it need not be.
    """
    try:
        from matplotlib import rc_context

        from common.show import canvas, figures

        with rc_context(canvas.STYLE):
            canvas.write_figure(make(figures), folder, name)
    except ModuleNotFoundError as error:
        say(f"no figure: {missing(error, 'report')}")
    except (OSError, ValueError) as error:  # also what is wrong with matplotlib's own settings
        say(f"no figure: {in_one_line(error)}")
        return False
    return True

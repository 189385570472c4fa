"""What both implementations share: the facts of an experiment, and the instrument that measures and proves it.

The folders stand in an order, config, experiment, measure, results, proof, process, show, cli, and each knows only
those before it. NumPy, msgspec and the standard library are all that a row needs; what prints adds tabulate and rich,
and what draws adds matplotlib and Jinja2. What a framework *does* is never written here: each implementation stays a
reference for its own.
"""

import sys

# Whatever starts comes by here first. This file, and those that start, are written so that Python 3.6 can read them.
if sys.version_info < (3, 10):  # noqa: UP036
    raise ImportError(f"this is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.10 to 3.13 will do")

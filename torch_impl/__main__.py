"""One PyTorch row from the command line: `python -m torch_impl --precision mixed_float16`."""

import sys

from common.config import RunConfig
from common.monitor import NONE, Monitors
from common.recorder import OnArrays, OnEvent
from common.results import RowResult
from common.worker import main


def run(config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NONE) -> RowResult:
    from torch_impl.run import run  # PyTorch is imported here, after the options were found to be right

    return run(config, on_event, on_arrays, monitors)


def describe(config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None) -> RowResult:
    from torch_impl.run import describe

    return describe(config)


if __name__ == "__main__":
    sys.exit(main("torch", run, describe))

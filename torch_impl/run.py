"""One row in PyTorch: train the model that the config describes, and report what it took."""

from common.config import RunConfig
from common.process import row
from common.process.monitor import NONE, Monitors, ignore
from common.process.recorder import OnArrays, OnEvent
from common.results.rows import RowResult
from torch_impl import implementation


def run(
    config: RunConfig,
    on_event: OnEvent = ignore,
    on_arrays: OnArrays | None = None,
    monitors: Monitors = NONE,
) -> RowResult:
    """Train one row on this process's device, as common.process.row.run says, which also says what is raised.

    on_event is called after every epoch, on_arrays with what was computed.
    """
    return row.run(implementation, config, on_event, on_arrays, monitors)


def describe(config: RunConfig) -> RowResult:
    """Say where the row would run, and train nothing; raises Unsupported where that device is missing."""
    return row.describe(implementation, config)

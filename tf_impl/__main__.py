"""One TensorFlow row from the command line: `python -m tf_impl --precision mixed_float16`."""

import os
import sys
from importlib.util import find_spec

from common.cli.worker import main
from common.config import RunConfig
from common.process.monitor import NO_MONITORS, Monitors
from common.process.recorder import OnArrays, OnEvent
from common.results.rows import RowResult

# The process is ours alone: what the user has set for Keras is meant for their own programs. Where there is no folder
# there is no keras.json, and none is written.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["KERAS_HOME"] = os.devnull


def run(
    config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NO_MONITORS
) -> RowResult:
    # TensorFlow is imported here, after the options were found to be right.
    if config.execution.devices > 1 and find_spec("tensorflow"):
        from tf_impl.processes import run_replicas

        return run_replicas(config, on_event, on_arrays, monitors)
    from tf_impl.run import run

    return run(config, on_event, on_arrays, monitors)


def describe(config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None) -> RowResult:
    from tf_impl.run import describe

    return describe(config)


if __name__ == "__main__":
    sys.exit(main("tensorflow", run, describe))

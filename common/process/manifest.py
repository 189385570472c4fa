"""The manifest of a row: where and how it ran, read afterwards, as far as no framework is needed to say it.

It decides nothing: the config does (config.py), and what else a row depends on is its setting (setting.py).
"""

import platform

import numpy as np

from common.config import RunConfig
from common.results.rows import Environment


def describe_environment(framework_version: str, device: dict[str, str], manifest: dict[str, str]) -> Environment:
    """device and manifest come from the implementation that ran the row."""
    return Environment(
        framework_version=framework_version,
        python_version=platform.python_version(),
        numpy_version=np.__version__,
        platform=platform.platform(),
        device=device,
        manifest=manifest,
    )


def _describe_replicas(config: RunConfig) -> dict[str, str]:
    execution = config.execution
    return {
        "replicas": f"{execution.replicas} on {execution.hosts} host{'s' if execution.hosts > 1 else ''}",
        "gradients": "summed over the replicas, and rounded as those of one, before they are tested for overflows",
    }


def _place_of_data(config: RunConfig) -> str:
    if config.execution.loop == "fit":
        return "given whole to Model.fit, whose tf.data cuts each batch on the host"
    return "on the device before the clock starts"


def describe_fixed_choices(config: RunConfig) -> dict[str, str]:
    """The lines of the manifest that are the same in both implementations, because config and common/ decide them."""
    return {
        **(_describe_replicas(config) if config.execution.replicas > 1 else {}),
        "data": f"{_place_of_data(config)}, in the order drawn, no shuffling",
        "loss": "y softplus(-z) + (1-y) softplus(z), mean over the batch, on float32 logits (float64 in float64)",
        "loss scaling": (
            f"from {config.loss_scale.initial_scale:g}, doubled after {config.loss_scale.growth_interval} finite steps"
            if config.precision.scales_loss
            else "none"
        ),
    }

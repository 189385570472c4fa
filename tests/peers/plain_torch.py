"""The port of the article's notebook that most would write in PyTorch: NCHW, autocast and GradScaler, all at defaults.

PyTorch's defaults stay as they are: TF32 allowed in convolutions and not in products, no cuDNN autotuning, Adam with
its own epsilon and without the fused kernel, a loss scale that starts at 2**16.
"""

import gc
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.config import ModelConfig, Precision, RunConfig
from common.experiment.data import draw_data
from common.measure.hardware import cpu_name
from tests.peers import USUAL_PRECISIONS, make_configs, make_parser, print_line, step_times


def main() -> int:
    parser = make_parser("plain_torch", __doc__, USUAL_PRECISIONS)
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="torch.compile in its default mode")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compile = arguments.compile == "on"
    for config in make_configs("torch", arguments.preset, arguments.epochs, arguments.precisions, compile=compile):
        torch.compiler.reset()
        gc.collect()
        print_line(train(config, device))
    return 0


def train(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Train once, and return what it took; the peak of memory includes the data."""
    images, labels = draw_data(config.data)
    size = config.train.batch_size
    batches = list(
        zip(
            torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous().split(size),
            torch.from_numpy(labels).to(device).split(size),
            strict=True,
        )
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(config.data.seed)
    model: Any = build_model(config.model).to(device)
    if config.execution.compile:
        model = torch.compile(model)
    epoch_s, loss = train_epochs(model, batches, config.train.epochs, config.precision, device)
    return {
        "peer": "plain torch",
        "framework": "torch",
        "version": torch.__version__,
        "precision": str(config.precision),
        "compile": config.execution.compile,
        "tf32": {"conv": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        **step_times(epoch_s, config.steps_per_epoch),
        "first_epoch_s": epoch_s[0],
        "last_epoch_loss": loss,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    }


def build_model(config: ModelConfig) -> nn.Sequential:
    """The article's network up to the logits: images (B, C, H, W) to (B, 1); the loss has the sigmoid in it."""
    channels = [config.image_shape[2], *[config.filters] * len(config.kernel_sizes)]
    return nn.Sequential(
        *(nn.Conv2d(*layer) for layer in zip(channels, channels[1:], config.kernel_sizes, strict=False)),
        nn.Flatten(),
        nn.Linear(math.prod(config.feature_shape), 1),
    )


def train_epochs(
    model: nn.Module,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    epochs: int,
    precision: Precision,
    device: torch.device,
) -> tuple[list[float], float]:
    """Return the seconds of every epoch and the mean of the last one's losses; images (B, C, H, W), labels (B, 1)."""
    mixed = precision is not Precision.FLOAT32
    dtype = getattr(torch, precision.compute_dtype) if mixed else None
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scales_loss)
    epoch_s: list[float] = []
    losses: list[torch.Tensor] = []
    for _ in range(epochs):
        losses = []
        synchronize(device)
        start_s = time.perf_counter()
        for images, labels in batches:
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype, enabled=mixed):
                loss = criterion(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
        synchronize(device)
        epoch_s.append(time.perf_counter() - start_s)
    return epoch_s, torch.stack(losses).mean().item()


def synchronize(device: torch.device) -> None:
    """Wait for the GPU; a CPU has done its work by then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())

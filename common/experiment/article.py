"""The article's own figures: a Tesla T4 on Colab in September 2022, `Model.fit`, batch 50, 10 epochs of 800 images."""

from typing import NamedTuple


class Figures(NamedTuple):
    """What the article prints for one precision; GB are 1e9 bytes, loss and accuracy those of the last epoch."""

    precision: str
    step_ms: float
    total_s: float
    peak_gb: float
    used_gb: float
    loss: float
    accuracy_percent: float


T4 = (
    Figures("float32", 490, 79.73, 9.18, 8.55, 1.1e-5, 100),
    Figures("mixed_float16", 182, 42.16, 4.19, 3.57, 2.5e-6, 100),
)

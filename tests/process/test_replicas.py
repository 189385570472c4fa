"""Do two replicas train as one does, in both frameworks, and does an overflow on the last one stop all of them?

A row is four steps on 16 images of 12 x 12, in batches of 8. Two replicas are two processes, which take 4 of them each.
Each row is trained once for all tests.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import (
    DataConfig,
    ExecutionConfig,
    LossScaleConfig,
    ModelConfig,
    Precision,
    RunConfig,
    TrainConfig,
    any_experiment_difference,
    experiment_difference,
)
from common.experiment.data import block, draw_data
from common.experiment.weights import draw_weights, weight_shapes
from common.measure.hardware import Unsupported
from common.measure.timing import StepTimes, Timing
from common.process.launch import Job, launch_row
from common.process.replicas import (
    LAUNCHER_VARIABLES,
    devices_and_hosts,
    explain_timeout,
    find_awaited,
    is_chief,
    task_index,
    tf_configs,
)
from common.process.runner import find_efficiencies
from common.proof.checks import check_replicas, joined, relative_error
from common.proof.reference import exact, loss_and_gradients, round_to_float16
from common.proof.runs import check_pair, check_pairs, check_run
from common.results.check import Check
from common.results.coding import arrays_file, read_arrays
from common.results.rows import Arrays, RowResult, Status, Training, describe_replicas
from common.show.words import rows_of
from tests.conftest import needs_both, needs_tensorflow, needs_torch
from tests.fakes import patched_worker
from tests.tolerances import REPLICAS_UPDATE

SHAPE = (12, 12, 3)
FRAMEWORKS = [pytest.param("torch", marks=needs_torch), pytest.param("tensorflow", marks=needs_tensorflow)]
MIXED = [Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16]

# Multiplies the last image of the second batch by infinity: on two replicas the last one's. In the first batch the
# replicas get the same images, so that each has exactly half of the gradient.
OVERFLOW = """
draw = row.draw_data
def draw_with_an_overflow(config):
    images, labels = draw(config)
    images[15] *= float("inf")
    images[4:8], labels[4:8] = images[:4], labels[:4]
    return images, labels
row.draw_data = draw_with_an_overflow
"""

# Keras' own optimizer, which sums the gradients by itself, after it has looked at the first replica's.
STOCK = """
import keras
from tf_impl import train
train.sum_gradients = lambda gradients, model: gradients
def stock(model, config, loss_scale, precision):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=loss_scale.initial_scale)
    optimizer.build(model.trainable_variables)
    return optimizer
run.optimizer.make_optimizer = stock
"""

Train = Callable[..., tuple[RowResult, Arrays]]


def config(framework: str, precision: Precision, replicas: int, compile: bool = False) -> RunConfig:
    return RunConfig(
        framework,
        precision,
        DataConfig(16, SHAPE),
        ModelConfig(SHAPE, filters=8),
        TrainConfig(epochs=2, batch_size=8),
        execution=ExecutionConfig("cpu", compile, threads=2, devices=replicas),
    )


@pytest.fixture(scope="module", params=["trained replicas"])
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a row in processes of its own, once."""

    @cache
    def train(config: RunConfig, patch: str = "") -> tuple[RowResult, Arrays]:
        folder = tmp_path_factory.mktemp("worker")
        row = launch_row(Job(config, patched_worker(folder, patch), folder / "rows" / "row", 100.0), lambda event: None)
        assert row.training, row.detail
        return row, read_arrays(arrays_file(folder / "rows" / "row"), weight_shapes(config.model))

    return train


def update(config: RunConfig, arrays: Arrays) -> np.ndarray:
    start = draw_weights(config.model, config.data.seed)
    return np.asarray(joined(arrays.final_weights, start) - joined(start, start))


@pytest.mark.slow
def test_float32_trains_the_same(impl: SimpleNamespace, train: Train) -> None:
    one, two = (config(impl.framework, Precision.FLOAT32, replicas) for replicas in (1, 2))
    one = replace(one, execution=replace(one.execution, threads=1))  # as the other tests of this process
    alone: list[Arrays] = []
    impl.run.run(one, on_arrays=alone.append)
    assert relative_error(update(two, train(two)[1]), update(one, alone[0])) <= REPLICAS_UPDATE


@pytest.mark.slow
@pytest.mark.parametrize("precision", MIXED)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_mixed_precision_stays_within_its_bounds(framework: str, precision: Precision, train: Train) -> None:
    row, arrays = train(config(framework, precision, 2))
    checks = row.checks + check_run(row, arrays, [row])
    assert {"C7 replicas", "C6 first gradient", "C6 loss curve", "C6 update"} <= {check.name for check in checks}
    kernels = [check.tensor for check in checks if check.name == "C6 precision" and check.tensor]
    assert len(kernels) == 3  # what the sums are stored in
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(
    ("precision", "total", "stored"),
    [
        (Precision.MIXED_FLOAT16, 1 + 2**-20, 1),
        (Precision.MIXED_FLOAT16, 70000, math.inf),
        (Precision.MIXED_BFLOAT16, 70000, 70144),
        (Precision.FLOAT32, 1 + 2**-20, 1 + 2**-20),
        (Precision.FLOAT64, 1 + 2**-40, 1 + 2**-40),
    ],
)
def test_a_sum_is_stored_as_one_devices_gradient(
    precision: Precision, total: float, stored: float, impl: SimpleNamespace
) -> None:
    array, distributed = np.array([total], precision.variable_dtype), impl.distributed
    sums = distributed.torch.from_numpy(array) if impl.framework == "torch" else distributed.tf.constant(array)
    assert distributed._as_of_one(sums, precision).numpy().tolist() == [stored]


@pytest.mark.slow
@needs_both
@pytest.mark.parametrize("precision", [Precision.FLOAT32, *MIXED])
def test_both_frameworks_agree_on_two_replicas(precision: Precision, train: Train) -> None:
    (mine, arrays), (other, others) = (train(config(framework, precision, 2)) for framework in ("tensorflow", "torch"))
    checks = check_pair(mine, other, arrays, others, [mine, other])
    assert [check for check in checks if not check.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_replicas_are_held_to_one(framework: str, train: Train) -> None:
    """And are caught if their gradients were averaged a second time, which Adam would hide."""
    (one, arrays), (two, others) = (train(config(framework, Precision.MIXED_FLOAT16, replicas)) for replicas in (1, 2))
    halves = {name: gradient / 2 for name, gradient in others.first_gradients.items()}
    for of_two, passed in ((others, True), (others._replace(first_gradients=halves), False)):
        (checks,) = check_pairs([one, two], lambda row, of_two=of_two: arrays if row is one else of_two).values()
        assert all(check.passed for check in checks) == passed


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_overflow_is_skipped_by_all_as_by_one(framework: str, replicas: int, train: Train) -> None:
    """On the last replica in steps 1 and 3. In step 0 only the sum: 0.19 * 2**19 is above 65504, and its half is not.

    Step 2 has the same batch and, with nothing learnt yet, the same gradient: 0.19 * 2**17.
    """
    scale = LossScaleConfig(initial_scale=2**19)
    row, arrays = train(replace(config(framework, Precision.MIXED_FLOAT16, replicas), loss_scale=scale), OVERFLOW)
    assert row.training
    assert row.training.skipped_steps == [0, 1, 3]
    assert row.training.loss_scale == [2**19, 2**18, 2**17, 2**17]
    assert all(np.isfinite(weight).all() for weight in arrays.final_weights.values())
    assert [check.passed for check in row.checks if check.name == "C7 replicas"] == [True] * (replicas - 1)


@pytest.mark.slow
@needs_tensorflow
def test_with_the_stock_optimizer_one_waits_for_the_other(tmp_path: Path) -> None:
    """The second skips the step, and with it the sum over the replicas that the first is waiting in."""
    two = config("tensorflow", Precision.MIXED_FLOAT16, 2)
    two = replace(two, execution=replace(two.execution, collective_timeout_s=4))
    python = patched_worker(tmp_path, OVERFLOW + STOCK)
    row = launch_row(Job(two, python, tmp_path / "rows" / "row", 100.0), lambda event: None)
    assert row.status is Status.CRASHED
    assert "did not answer within 4 s" in row.detail


@pytest.mark.slow
@needs_tensorflow
def test_under_xla(train: Train) -> None:
    """torch.compile takes half a minute for it; results/ has such rows of both."""
    row, arrays = train(config("tensorflow", Precision.FLOAT32, 2, compile=True))
    assert [check for check in row.checks + check_run(row, arrays, [row]) if not check.passed] == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_row_says_who_trained_it(framework: str, train: Train) -> None:
    row, _ = train(config(framework, Precision.FLOAT32, 2))
    assert row.replicas
    assert (row.replicas.replicas, row.replicas.hosts, row.replicas.batch_per_replica) == (2, 1, 4)
    assert row.replicas.backend == {"torch": "gloo", "tensorflow": "ring"}[framework]
    assert len(row.replicas.peak_bytes) == 2
    assert row.timing
    assert row.replicas.images_per_s_per_replica == (row.timing.images_per_s or 0) / 2


@pytest.mark.parametrize(("rank", "part"), [(0, [0, 1, 2]), (1, [3, 4, 5])])
def test_a_batch_is_cut_into_blocks(rank: int, part: list[int]) -> None:
    assert list(range(6))[block(6, 2, rank)] == part


def test_a_batch_without_equal_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="7 can't be cut into 2 equal blocks"):
        block(7, 2, 0)


def test_the_reference_stores_each_replicas_gradients() -> None:
    """In float64 the sum is the same; in float16 each block's gradient is rounded before it is added, then the sum."""
    images, labels = draw_data(DataConfig(4, SHAPE))
    weights = draw_weights(ModelConfig(SHAPE, filters=4), seed=1)
    one, two = (loss_and_gradients(weights, images, labels, exact, replicas=replicas) for replicas in (1, 2))
    assert relative_error(two.gradients["conv2/bias"], one.gradients["conv2/bias"]) < 1e-14
    one, two = (loss_and_gradients(weights, images, labels, round_to_float16, 1024.0, replicas) for replicas in (1, 2))
    scaled = two.gradients["conv2/bias"] * 1024
    assert np.any(scaled != one.gradients["conv2/bias"] * 1024)
    assert np.array_equal(scaled, round_to_float16(scaled))


@pytest.mark.parametrize(
    ("entered", "waited_for"), [([4, 4], []), ([5, 4], [1]), ([4, 5, 5], [0]), ([3, 5, 3], [0, 2]), ([3, 4, 5], [0])]
)
def test_the_one_that_has_entered_the_fewest_collectives_is_waited_for(
    entered: list[int], waited_for: list[int]
) -> None:
    assert find_awaited(entered) == waited_for


def test_once_the_time_is_over_it_is_named_by_its_rank() -> None:
    """Of the second of two hosts with two replicas each."""
    assert str(explain_timeout([4, 3], first=2)) == "rank 3 did not answer"
    assert str(explain_timeout([4, 4], first=2)) == "no replica kept the others waiting"


def test_torchrun_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, RANK="3", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", MASTER_ADDR="host0")
    assert devices_and_hosts("torch") == (4, 2)
    assert not is_chief("torch")
    assert devices_and_hosts("tensorflow") == (None, 1)


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "3", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"},
        {"RANK": "0", "WORLD_SIZE": "0", "LOCAL_WORLD_SIZE": "0"},
        {"RANK": "0", "WORLD_SIZE": "many", "LOCAL_WORLD_SIZE": "1"},
        {"RANK": "0"},
    ],
    ids=["unlike hosts", "no such rank", "nobody", "no number", "a rank alone"],
)
def test_what_torchrun_does_not_set_is_refused(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, **variables, MASTER_ADDR="host0")
    with pytest.raises(ValueError, match="let torchrun set them, with as many processes on each host, or unset them"):
        devices_and_hosts("torch")


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def gpus_of_a_replica() -> tuple[str, str]:
    return os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"]


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize(
    ("device", "seen"),
    [
        ("auto", [("0", "4"), ("0", "7")]),
        pytest.param("gpu", [("0", "4"), ("0", "7")], marks=pytest.mark.slow),
        pytest.param("cpu", [("0", "4,7"), ("1", "4,7")], marks=pytest.mark.slow),
    ],
)
def test_a_replica_of_pytorch_sees_its_own_gpu_alone(
    device: str, seen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so as the first: torch.compile would not find under another number what it has chosen for one replica."""
    processes = import_module("torch_impl.processes")
    set_gpus(monkeypatch, 2, CUDA_VISIBLE_DEVICES="4,7")
    launch, found = processes.elastic_launch, []

    def launch_and_look(options: Any, replica: object) -> Callable[..., dict[int, Any]]:
        found.append(launch(options, gpus_of_a_replica)())
        return lambda *arguments: {0: None}

    monkeypatch.setattr(processes, "elastic_launch", launch_and_look)
    two = config("torch", Precision.FLOAT32, 2)
    processes.run_replicas(replace(two, execution=replace(two.execution, device=device)), print, None)
    assert found == [dict(enumerate(seen))]


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize(("gpus", "local_rank"), [(1, 0), (2, 0), (2, 1)], ids=["the only one", "first", "second"])
def test_a_replica_of_pytorch_takes_its_gpu(gpus: int, local_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only one that it sees, or by its local rank, where torchrun leaves all of them to be seen."""
    device = import_module("torch_impl.device")
    set_gpus(monkeypatch, gpus, LOCAL_RANK=str(local_rank))
    assert str(device.select_device("auto", 2, devices=2)) == f"cuda:{local_rank}"


@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_a_replica_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself where torchrun has started it, else before any is started, and where nothing is to be trained yet."""
    device, processes, run = (import_module(f"torch_impl.{name}") for name in ("device", "processes", "run"))
    two = config("torch", Precision.FLOAT32, 2)
    two = replace(two, execution=replace(two.execution, device="auto"))
    set_gpus(monkeypatch, 1)
    with pytest.raises(Unsupported, match="PyTorch finds 1 of 2 GPUs; give --devices fewer"):
        processes.run_replicas(two, print, None)
    with pytest.raises(Unsupported, match="PyTorch finds 1 of 2 GPUs; give --devices fewer"):
        run.describe(two)
    set_gpus(monkeypatch, 1, LOCAL_RANK="1")
    with pytest.raises(Unsupported, match="PyTorch finds 1 of 2 GPUs; give --devices fewer"):
        device.select_device("auto", 2, devices=2)
    set_gpus(monkeypatch, 2, LOCAL_RANK="0")
    with pytest.raises(Unsupported, match="PyTorch finds 2 of 4 GPUs; give --devices fewer"):
        device.select_device("auto", 2, devices=4)


def set_gpus(monkeypatch: pytest.MonkeyPatch, number: int, **variables: str) -> None:
    """Let PyTorch find so many."""
    cuda = import_module("torch.cuda")
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: number)
    monkeypatch.setattr(cuda, "set_device", lambda device: None)
    set_variables(monkeypatch, **variables)


def test_tf_config_says_which_hosts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    assert devices_and_hosts("tensorflow") == (None, 2)
    assert (task_index(), is_chief("tensorflow")) == (1, False)
    assert devices_and_hosts("torch") == (None, 1)


def test_a_host_has_a_process_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = '{"cluster": {"worker": ["a:2222", "[::1]:7"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", hosts)
    found = {rank: json.loads(text) for rank, text in tf_configs(2).items()}
    assert {rank: each["task"]["index"] for rank, each in found.items()} == {2: 2, 3: 3}
    assert found[2]["cluster"] == found[3]["cluster"] == {"worker": ["a:2222", "a:2223", "[::1]:7", "[::1]:8"]}


def test_a_single_host_has_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    first, second = (json.loads(text) for text in tf_configs(2).values())
    assert first["cluster"] == second["cluster"]
    assert len(set(first["cluster"]["worker"])) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": "ab"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": Infinity}}',
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_another_tf_config_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG is .*it must be as"):
        devices_and_hosts("tensorflow")


def measured(config: RunConfig, step_s: float) -> RowResult:
    images_per_s = config.train.batch_size / step_s
    timing = Timing(1.0, [1.0, 1.0], StepTimes(step_s, step_s, step_s, 1), 2.0, images_per_s)
    return RowResult(config, Status.OK, timing=timing, replicas=describe_replicas(config, "gloo", [1, 1], timing))


def efficiencies(*rows: RowResult) -> tuple[float | None, float | None]:
    group = find_efficiencies(rows)[-1].replicas
    assert group
    return group.strong_scaling_efficiency, group.weak_scaling_efficiency


def test_efficiencies() -> None:
    """One replica takes 10 ms for 8 images and 6 for 4, two take 8 ms for 8: strong 10 / (2 8), weak 6 / 8."""
    one, two = (config("torch", Precision.FLOAT32, replicas) for replicas in (1, 2))
    half = replace(one, train=replace(one.train, batch_size=4))
    assert efficiencies(measured(one, 0.010), measured(half, 0.006), measured(two, 0.008)) == pytest.approx(
        (0.625, 0.75)
    )
    assert find_efficiencies([measured(one, 0.010)])[0].replicas is None
    patient = replace(two, execution=replace(two.execution, collective_timeout_s=600))
    assert efficiencies(measured(one, 0.010), measured(patient, 0.008)) == (pytest.approx(0.625), None)


@pytest.mark.parametrize(
    "other",
    [
        config("tensorflow", Precision.FLOAT32, 1),
        config("torch", Precision.FLOAT64, 1),
        config("torch", Precision.FLOAT32, 1, compile=True),
        replace(config("torch", Precision.FLOAT32, 1), execution=ExecutionConfig("cpu", threads=1)),
    ],
    ids=["another framework", "another precision", "compiled", "on other threads"],
)
def test_efficiency_is_not_taken_against(other: RunConfig) -> None:
    assert efficiencies(measured(other, 0.010), measured(config("torch", Precision.FLOAT32, 2), 0.008)) == (None, None)


def test_efficiency_is_not_taken_against_a_row_that_failed() -> None:
    one, two = (measured(config("torch", Precision.FLOAT32, replicas), 0.01) for replicas in (1, 2))
    assert efficiencies(replace(one, status=Status.NONFINITE), two) == (None, None)


@pytest.mark.parametrize(("found", "differing"), [([7, 7, 7], 0.0), ([7, 8, 7], 1.0), ([7, 8, 9], 2.0)])
def test_replicas_whose_weights_differ_fail(found: list[int], differing: float) -> None:
    (check,) = check_replicas(found)
    assert (check.difference, check.passed) == (differing, differing == 0)


def test_a_fingerprint_is_of_the_weights(impl: SimpleNamespace) -> None:
    replicas = impl.distributed.alone(impl.cpu)
    shape = ModelConfig(SHAPE, filters=4)
    model = impl.model.build_model(shape, Precision.FLOAT32, impl.cpu)
    found = []
    for seed in (1, 2, 1):
        impl.model.load_weights(model, draw_weights(shape, seed))
        found += impl.distributed.fingerprints(model, replicas)
    assert found[0] == found[2] != found[1]


def test_pairs_differ_in_framework_or_replicas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of several replicas are no pair: each is one with the row of a single one."""
    monkeypatch.setattr("common.proof.runs.check_pair", lambda *rows: [Check("C8 skips", 0, 1, True, "all steps")])
    kinds = [("tensorflow", 1), ("tensorflow", 2), ("torch", 1), ("torch", 2), ("torch", 4)]
    configs = [config(framework, Precision.FLOAT32, replicas) for framework, replicas in kinds]
    configs += [replace(configs[-1], train=TrainConfig(2, batch_size=16))]  # another experiment
    training = Training([], [], [], [], [], "", "")
    rows = [RowResult(each, Status.OK, training=training) for each in configs]
    ((*checks,),) = check_pairs(rows, lambda row: Arrays({}, {})).values()
    assert {rows_of(check) for check in checks} == {
        "tensorflow, torch", "tensorflow x2, torch x2",
        "tensorflow, tensorflow x2", "torch, torch x2", "torch, torch x4",
    }  # fmt: skip
    assert len(checks) == 5


def of_size(devices: int, batch_size: int) -> RunConfig:
    one = replace(config("torch", Precision.FLOAT32, 1), data=DataConfig(48, SHAPE))
    execution, train = replace(one.execution, devices=devices), replace(one.train, batch_size=batch_size)
    return replace(one, execution=execution, train=train)


@pytest.mark.parametrize(
    ("devices", "batch_size", "differs"),
    [(1, 8, False), (2, 8, False), (2, 16, False), (2, 12, True), (1, 16, True)],
    ids=["the same", "strong scaling", "weak scaling", "neither", "another batch"],
)
def test_which_rows_are_of_one_experiment(devices: int, batch_size: int, differs: bool) -> None:
    assert bool(experiment_difference(of_size(1, 8), of_size(devices, batch_size))) == differs


def test_strong_and_weak_scaling_are_two_experiments() -> None:
    """Both go with one device; the rows of two devices do not go with each other."""
    strong, weak, one = of_size(2, 8), of_size(2, 16), of_size(1, 8)
    for rows, difference in (
        ([strong, one], ""),
        ([weak, one], ""),
        ([strong, weak, one], "batch_size 8 and not 16 on 2 replicas"),
    ):
        assert any_experiment_difference(rows, rows) == difference


@pytest.mark.parametrize(
    ("backend", "calls", "waits"),
    [("none", 41, [False]), ("ring", 3, [False]), ("nccl", 3, [False, *19 * [True], False])],
)
@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_many_steps_are_one_call(backend: str, calls: int, waits: list[bool]) -> None:
    """Of several replicas of TensorFlow; by NCCL each step is traced into it, with its batch after the one before.

    Of 41 steps two calls of 20 are one graph. What the calls return are the steps all the same.
    """
    import tensorflow as tf

    from tf_impl.distributed import Replicas
    from tf_impl.train import calls_of_epoch

    size = 1 if backend == "none" else 2
    replicas = Replicas(size, range(1), ["CPU:0"], backend, tf.distribute.get_strategy())
    batches = [(tf.fill((2,), float(number)), tf.fill((2,), 1.0)) for number in range(41)]
    waited_for: list[list[str]] = []

    def step(images: Any, labels: Any) -> tuple[Any]:
        waited_for.append([operation.name for operation in images.op.control_inputs])
        return (images + labels,)

    made = calls_of_epoch(tf.function(step), batches, replicas)
    assert len(made) == calls
    assert [total.numpy().tolist() for call in made for (total,) in call()] == [[n, n] for n in range(1, 42)]
    assert [bool(names) for names in waited_for] == waits
    assert len({tuple(names) for names in waited_for}) == len(waits) - waits.count(False) + 1  # each for another step

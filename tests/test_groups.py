"""Do the tests that share a framework, or a run, share a process under pytest-xdist?"""

import pytest

from tests.conftest import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/a.py::test_b[torch_impl]", "torch_impl"),
        ("tests/a.py::test_b[float32-tf_impl-2.0]", "tf_impl"),
        ("tests/a.py::test_b[smoke run-float32]", "smoke run"),
        ("tests/a.py::test_b[loops of PORTING-tf_impl]", "loops of PORTING"),  # not twice, once for each framework
        ("tests/a.py::test_b[tf_impl-trained replicas]", "tf_impl"),  # what it also does in its own process
        ("tests/a.py::test_b[a smoke run of two]", None),
        ("tests/torch_impl.py::test_b", None),
    ],
)
def test_which(nodeid: str, group: str | None) -> None:
    assert group_of(nodeid) == group

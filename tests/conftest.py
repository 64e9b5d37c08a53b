"""What every test gets: a fresh printed seed, poisoned memory, and the backends that can run here."""

from __future__ import annotations

import ctypes
import os
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

# Workers that share the processors would otherwise spin for one another in every small parallel loop. OpenMP reads this
# when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from deconv_kernels import backends  # noqa: E402

SEED_VARIABLE = "DECONV_TEST_SEED"
BACKENDS = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("triton", marks=pytest.mark.gpu),
    "reference",
]
_M_PERTURB = -6  # glibc's mallopt: new memory is filled with the complement of the low byte of the value
_PERTURBATION = 0x01  # bytes of 0xFE: -1.7e38 in float32, a value that no result has

_not_run: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=backends.NAMES, help="run the op tests of this backend and nothing else")


def pytest_configure(config: pytest.Config) -> None:
    # Of ATen's max_unpool2d under `poisoned_memory`.
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation:UserWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only = config.getoption("--backend")
    if only is None:
        return
    chosen = [i for i in items if getattr(i, "callspec", None) and i.callspec.params.get("backend") == only]
    config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
    items[:] = chosen


def pytest_report_header() -> list[str]:
    reasons = {name: backends.why_not(name) for name in backends.NAMES}
    return [f"backend {name}: {'runs' if reason is None else reason}" for name, reason in reasons.items()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, count in _not_run.items():
        terminalreporter.write_line(f"{count} tests did not run: {reason}")


@pytest.fixture(autouse=True)
def seed() -> int:
    """A fresh seed for every test, shown where it fails; the environment variable DECONV_TEST_SEED sets it."""
    value = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**31))
    print(f"{SEED_VARIABLE}={value} repeats this test")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fills memory that torch or malloc hands out with values that no result has, so that unwritten outputs show."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    if mallopt is not None:
        mallopt(_M_PERTURB, _PERTURBATION)
    yield
    if mallopt is not None:
        mallopt(_M_PERTURB, 0)
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def float32_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """float32 is float32 on a GPU too; tests of TF32 ask for it as a parameter, and have tolerances of their own."""
    precision = getattr(request, "param", "ieee")
    with backends.float32_precision(precision):
        yield precision


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, forced for the length of the test; skipped with the reason where it cannot run."""
    name = request.param
    reason = backends.why_not(name)
    if reason is not None:
        reason = f"backend {name}: {reason}"
        _not_run[reason] += 1
        pytest.skip(reason)
    with backends.use(name):
        yield name


@pytest.fixture
def device(backend: str) -> torch.device:
    """The device the backend works on."""
    on_gpu = backend == "cuda" or (backend == "triton" and not backends.triton_interprets())
    return torch.device("cuda" if on_gpu else "cpu")


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """As if the disk were full: inside `small_disk(size)` no file can grow beyond so many bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

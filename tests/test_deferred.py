"""python/deferred.py: what is deferred runs at its first use, and then all is as if it had never been."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from interlace.python import deferred
from interlace.python.deferred import Deferred, Exempt, Later, Noting, Unmade, defer_imports

PARTS = {
    "__init__": "from . import inner\n__version__ = '3'\nseen = []\n"
    "def note(what):\n    seen.append(what)\n    return what\n"
    "class Kind:\n    def __init__(self, size=1):\n        self.size = size\n"
    "def exempt(function, word='exempt'):\n    return lambda *args: (word, function(*args))\n",
    "inner": "from ..outer import runs\nruns.append('inner')\nclass Part:\n    pass\n",
}
NAMES: dict[str, type[Later]] = {"Kind": Later, "note": Noting, "exempt": Exempt, "inner": Unmade}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModuleType]]:
    """Imports `house.slow`, which is deferred; `house.outer.runs` tells what ran."""
    (tmp_path / "house" / "slow").mkdir(parents=True)
    (tmp_path / "house" / "__init__.py").touch()
    (tmp_path / "house" / "outer.py").write_text("runs = []\n")
    for name, text in PARTS.items():
        (tmp_path / "house" / "slow" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(deferred, "_MODULES", {"house.slow": NAMES})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    defer_imports()
    yield lambda: import_module("house.slow")
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


def runs() -> list[str]:
    return list(import_module("house.outer").runs)


def test_names_that_are_taken_at_once_run_nothing_until_they_are_used(package: Callable[[], ModuleType]) -> None:
    slow = package()
    kind = slow.Kind
    assert type(slow) is Deferred
    assert runs() == []
    made = kind(3)
    assert (made.size, type(slow), runs()) == (3, ModuleType, ["inner"])
    assert isinstance(made, kind)
    assert not isinstance(4, kind)
    assert issubclass(slow.Kind, kind)
    assert type(made) is slow.Kind


def test_a_stand_in_can_be_inherited_from_and_pickled(package: Callable[[], ModuleType]) -> None:
    slow = package()
    kind = slow.Kind

    class Own(kind):  # type: ignore[misc, valid-type]
        pass

    assert Own.__mro__[1] is slow.Kind
    assert pickle.loads(pickle.dumps(kind)) is slow.Kind


def test_what_was_noted_is_made_up_for(package: Callable[[], ModuleType]) -> None:
    slow = package()
    assert slow.note(int) is int
    assert runs() == []
    assert slow.seen == [int]
    assert slow.note(str) is str
    assert slow.seen == [int, str]


def test_an_exempted_function_runs_by_itself_before_and_is_exempt_after(package: Callable[[], ModuleType]) -> None:
    slow = package()

    class Owner:
        @slow.exempt
        def twice(self, number: int) -> int:
            return 2 * number

        @slow.exempt(None, "out")
        def thrice(self, number: int) -> int:
            return 3 * number

    assert (Owner().twice(4), Owner().thrice(4)) == (8, 12)
    assert runs() == []
    assert slow.seen == []
    assert (Owner().twice(4), Owner().thrice(4)) == (("exempt", 8), ("out", 12))


def test_nothing_is_an_instance_of_what_was_never_made(package: Callable[[], ModuleType]) -> None:
    slow = package()
    part = slow.inner.Part
    assert not isinstance(3, part)
    assert runs() == []
    assert slow.seen == []
    assert isinstance(slow.inner.Part(), part)


def test_a_module_within_is_loaded_once_and_after_its_package(package: Callable[[], ModuleType]) -> None:
    slow = package()
    inner = import_module("house.slow.inner")
    assert runs() == ["inner"]
    assert slow.inner is inner is sys.modules["house.slow.inner"]
    assert inner.__spec__ is not None
    assert inner.__spec__.origin == inner.__file__


def test_its_version_is_its_own(package: Callable[[], ModuleType]) -> None:
    slow = package()
    assert (slow.__name__, slow.__file__ is None, runs()) == ("house.slow", False, [])
    assert slow.__version__ == "3"
    assert runs() == ["inner"]


def test_one_that_can_not_be_run_says_so_at_each_use(package: Callable[[], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "house" / "slow" / "__init__.py").write_text("import nothing_of_that_name\n")
    slow = package()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
            _ = slow.seen


def test_many_threads_run_it_once(package: Callable[[], ModuleType]) -> None:
    slow, barrier = package(), threading.Barrier(8)
    found: list[object] = []

    def look() -> None:
        barrier.wait()
        found.append(slow.Kind(2).size)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2] * 8
    assert runs() == ["inner"]


RUN = """
import sys
from interlace.cli.main import main
sys.argv = ["interlace", "t2i", "a red circle", "--output-dir", sys.argv[1], "--num-inference-steps", "1"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
unwanted = ("torchao", "botocore", "torch._inductor", "scipy.stats._stats_py", "scipy.optimize._optimize",
            "torch._dynamo.convert_frame", "pyarrow", "uvicorn", "av")
print("loaded:", *(name for name in unwanted if name in sys.modules))
"""


def test_a_picture_of_the_demo_model_needs_no_compiler_no_scipy_and_nothing_to_quantise(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path / "out")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "loaded:"
    assert (tmp_path / "out" / "000000.png").exists()

"""python/deferred: what is deferred runs at its first use, and then all is as if it had never been."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import _bootstrap, import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageChops

from interlace.cli import main
from interlace.python.deferred import finder, modules
from interlace.python.deferred.finder import defer_imports
from interlace.python.deferred.modules import Deferred, when_run
from interlace.python.deferred.stand_ins import Exempt, Later, Noting, Truth, Unmade, UnmadeWithin
from interlace.python.deferred.table import Kinds

MODULES = {
    "__init__": "",
    "outer": "from threading import Event\nruns = []\nbegun, go = Event(), Event()\n",
    "slow/__init__": "from . import inner\n__version__ = '3'\nseen = []\nstyles = {'wide': 1}\n"
    "def note(what):\n    seen.append(what)\n    return what\n"
    "class Kind:\n    def __init__(self, size=1):\n        self.size = size\n"
    "def exempt(function, word='exempt'):\n    return lambda *args: (word, function(*args))\n"
    "def truth(value):\n    return bool(value)\n",
    "slow/inner": "from ..outer import runs\nruns.append('inner')\nclass Part:\n    pass\n",
    "slow/deep": "from ..outer import runs\nfrom . import Kind\nruns.append('deep')\nclass Sub(Kind):\n    pass\n",
    "taker": "from house.slow import Kind as Taken\n",
}
TABLE: dict[str, Kinds] = {
    "house.slow": {
        "Kind": Later,
        "note": Noting,
        "exempt": Exempt,
        "inner": UnmadeWithin,
        "styles": Later,
        "truth": Truth,
    },
    "house.slow.deep": {"Sub": Unmade},
}
PAUSE = "from house.outer import begun, go\nbegun.set()\ngo.wait()\n"
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Adds a module to the package `house`, of which TABLE says what is deferred; `house.outer.runs` tells what ran."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "house" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for name, text in MODULES.items():
        write(name, text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(modules, "_TAKERS", {__name__, "house.taker"})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    defer_imports(TABLE)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


@pytest.fixture
def package(write: Write) -> Callable[[], ModuleType]:
    return lambda: import_module("house.slow")


def outer() -> Any:
    return import_module("house.outer")


def runs() -> list[str]:
    return list(outer().runs)


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


def test_a_stand_in_in_a_type_hint_runs_nothing(package: Callable[[], ModuleType]) -> None:
    kind = package().Kind
    hints = (dict[type[kind], int], Callable[[kind, str], bool])  # type: ignore[valid-type]
    assert len(hints) == 2
    assert runs() == []
    assert (kind | None) == (package().Kind | None)
    assert (None | kind) == (None | package().Kind)


def test_a_mapping_is_the_real_one_as_soon_as_it_is_looked_into(package: Callable[[], ModuleType]) -> None:
    styles = package().styles
    assert runs() == []
    assert "wide" in styles
    assert (list(styles), styles["wide"], runs()) == (["wide"], 1, ["inner"])


def test_who_is_not_known_to_take_a_name_gets_the_real_thing(package: Callable[[], ModuleType], write: Write) -> None:
    package()
    write("other", "from house.slow import Kind\n")
    assert import_module("house.other").Kind is package().Kind
    assert isinstance(package().Kind, type)


def test_who_took_a_name_has_the_real_thing_once_there_is_one(package: Callable[[], ModuleType]) -> None:
    taker = import_module("house.taker")
    assert type(taker.Taken) is Later
    assert taker.Taken(2).size == 2
    assert taker.Taken is package().Kind


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


def test_of_a_plain_bool_the_truth_is_known(package: Callable[[], ModuleType]) -> None:
    slow = package()
    assert slow.truth(True) is True
    assert slow.truth(False) is False
    assert runs() == []
    assert slow.truth("symbol") is True
    assert runs() == ["inner"]


def test_a_module_within_is_loaded_once_and_after_its_package(package: Callable[[], ModuleType]) -> None:
    slow = package()
    inner = import_module("house.slow.inner")
    assert runs() == ["inner"]
    assert slow.inner is inner is sys.modules["house.slow.inner"]
    assert inner.__spec__ is not None
    assert inner.__spec__.origin == inner.__file__


def test_a_deferred_module_within_runs_nothing_and_later_its_package_first(package: Callable[[], ModuleType]) -> None:
    deep = import_module("house.slow.deep")
    sub = deep.Sub
    assert not isinstance(3, sub)
    assert (type(package()), type(deep), runs()) == (Deferred, Deferred, [])
    assert isinstance(sub(4), package().Kind)
    assert runs() == ["inner", "deep"]
    assert isinstance(deep.Sub(), sub)


def test_what_a_package_imports_while_it_is_run_is_run(package: Callable[[], ModuleType], write: Write) -> None:
    write("slow/__init__", MODULES["slow/__init__"] + "import house.slow.deep\n")
    assert package().seen == []
    assert runs() == ["inner", "deep"]
    assert type(sys.modules["house.slow.deep"]) is ModuleType


def test_its_version_is_its_own(package: Callable[[], ModuleType]) -> None:
    slow = package()
    assert (slow.__name__, slow.__file__ is None, runs()) == ("house.slow", False, [])
    assert slow.__version__ == "3"
    assert runs() == ["inner"]


def test_one_that_puts_another_in_its_place_is_that_one(package: Callable[[], ModuleType], write: Write) -> None:
    text = "import sys, types\nother = types.ModuleType(__name__)\nother.Kind = int\nsys.modules[__name__] = other\n"
    write("slow/__init__", text)
    slow = package()
    kind = slow.Kind
    assert kind("3") == 3
    assert slow.other is sys.modules["house.slow"]


def test_a_name_that_is_no_more_is_missed_as_ever(package: Callable[[], ModuleType], write: Write) -> None:
    write("slow/__init__", "Other = 3\n")
    slow = package()
    with pytest.raises(AttributeError, match="Kind"):
        slow.Kind()
    assert slow.Other == 3


def test_one_that_can_not_be_run_says_so_at_each_use(package: Callable[[], ModuleType], write: Write) -> None:
    write("slow/__init__", "import nothing_of_that_name\n")
    slow = package()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
            _ = slow.seen


def test_what_is_to_be_done_then_is_done_once_it_was_run(package: Callable[[], ModuleType]) -> None:
    seen: list[str] = []
    when_run("house.slow", lambda: seen.append(package().__version__))
    assert (seen, runs()) == ([], [])
    assert package().seen == []
    assert seen == ["3"]
    when_run("house.slow", lambda: seen.append("now"))
    assert seen == ["3", "now"]


def test_where_modules_have_no_locks_that_are_known_nothing_is_deferred(
    package: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "IMPORTLIB", object())
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, finder._Finder)]
    defer_imports(TABLE)
    assert type(package()) is ModuleType


def test_what_writes_into_it_is_run_with_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder, "COMPANIONS", {"house.slow": ("house.adds",)})
    write("adds", "from house.slow import styles\nstyles['tall'] = 2\n")
    styles = import_module("house.slow").styles
    assert "house.adds" not in sys.modules
    assert list(styles) == ["wide", "tall"]


def started(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def waiting(thread: threading.Thread) -> None:
    """Until the thread waits for an import of another one."""
    while thread.ident not in _bootstrap._blocking_on:
        thread.join(0.01)
        assert thread.is_alive()


def test_many_threads_run_it_once(package: Callable[[], ModuleType]) -> None:
    slow, barrier = package(), threading.Barrier(8)
    found: list[object] = []

    def look() -> None:
        barrier.wait()
        found.append(slow.Kind(2).size)

    for thread in [started(look) for _ in range(8)]:
        thread.join(20)
    assert found == [2] * 8
    assert runs() == ["inner"]


def test_one_thread_may_run_a_package_while_another_imports_what_is_in_it(
    package: Callable[[], ModuleType], write: Write
) -> None:
    write(
        "slow/__init__", "from house.outer import begun, go\nbegun.set()\ngo.wait()\nfrom . import inner\nseen = []\n"
    )
    slow, found = package(), list[object]()
    runner = started(lambda: found.append(slow.seen))
    assert outer().begun.wait(10)
    importer = started(lambda: found.append(import_module("house.slow.inner").Part))
    waiting(importer)
    outer().go.set()
    for thread in (runner, importer):
        thread.join(10)
        assert not thread.is_alive()
    assert len(found) == 2
    assert runs() == ["inner"]


def test_two_threads_that_wait_for_each_others_imports_go_on_with_what_is_there(
    package: Callable[[], ModuleType], write: Write
) -> None:
    write("slow/__init__", "early = 1\nimport house.other\nlate = 2\n")
    write("other", f"{PAUSE}from house.slow import early\n")
    slow, found = package(), list[object]()
    importer = started(lambda: found.append(import_module("house.other").early))
    assert outer().begun.wait(10)
    runner = started(lambda: found.append(slow.late))
    waiting(runner)
    outer().go.set()
    for thread in (importer, runner):
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(found) == [1, 2]  # type: ignore[type-var]


RUN = """
import sys
from interlace.cli.main import main
sys.argv = ["interlace", "t2i", "a red circle", "--output-dir", *sys.argv[1:], "--num-inference-steps", "1"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
unwanted = ("torchao", "botocore", "torch._inductor", "scipy.stats._stats_py", "scipy.optimize._optimize",
            "torch._dynamo.convert_frame", "pyarrow", "uvicorn", "av", "peft.mapping", "sympy",
            "torch.distributed.tensor._api", "torch.distributed.checkpoint.state_dict")
print("loaded:", *(name for name in unwanted if name in sys.modules))
"""


def run(*flags: str) -> str:
    """What the command's own process has loaded of what few runs use."""
    ran = subprocess.run([sys.executable, "-c", RUN, *flags], check=True, capture_output=True, text=True)
    return ran.stdout.splitlines()[-1]


def test_a_picture_of_the_demo_model_needs_no_compiler_no_scipy_no_peft_and_nothing_to_quantise(tmp_path: Path) -> None:
    assert run(str(tmp_path / "out")) == "loaded:"
    assert (tmp_path / "out" / "000000.png").exists()


def apart(one: Path, other: Path) -> int:
    """How far, of 255."""
    with Image.open(one) as picture, Image.open(other) as another:
        return max(most for _, most in ImageChops.difference(picture, another).getextrema())


ROWS = """{"id": "plain", "prompt": "a red circle"}
{"id": "outline", "prompt": "a red circle", "lora": "outline:0.7"}
{"id": "both", "prompt": "a red circle", "lora": "outline:0.4,pastel:0.6"}
"""


@pytest.mark.parametrize("flags", [["--max-num-seqs", "3"], ["--quantize", "torchao:int8wo"]])
def test_adapters_of_rows_and_quantised_weights_draw_as_where_nothing_is_deferred(
    tmp_path: Path, flags: list[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    size = ["--height", "64", "--width", "64", "--num-inference-steps", "2", "--no-html"]
    flags = [*flags, "--optimize", "off"]  # auto takes what is quicker just then, equal within rounding
    own, here = tmp_path / "own", tmp_path / "here"
    command = [sys.executable, "-m", "interlace", "t2i", str(rows), "--output-dir", str(own), *size, *flags]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert main.run(["t2i", str(rows), "--output-dir", str(here), *size, *flags]) == 0
    for name in ("plain", "outline", "both"):
        assert apart(own / f"{name}.png", here / f"{name}.png") <= 1  # as two runs without any of it may differ
    assert apart(own / "plain.png", own / "outline.png") > 50


LATE = """
import sys
from interlace.python.deferred.finder import defer_imports
defer_imports()
from interlace.engine.pipeline.variants.journal import wraps
wraps.open()
assert "peft.mapping" not in sys.modules
from peft.tuners.lora.layer import LoraLayer
from peft.utils import hotswap
for watched in (True, False):
    for one in (LoraLayer.update_layer, hotswap.hotswap_adapter_from_state_dict):
        assert hasattr(one, "__wrapped__") is watched, (one, watched)
    if watched:
        wraps.close()
"""


def test_adapters_that_come_to_open_engines_are_watched() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True)

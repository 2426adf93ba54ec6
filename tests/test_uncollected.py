"""python/uncollected.py: large imports run without the collector, which leaves what they made alone afterwards."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from interlace.python import uncollected
from interlace.python.uncollected import import_uncollected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of modules of which `large`, `larger` and `broken` are large; unfrozen afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(uncollected, "_LARGE", {"large_one", "larger_one", "broken_one"})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "large_one.py").write_text("import gc\non = gc.isenabled()\nheld = [[] for _ in range(100)]\n")
    (tmp_path / "larger_one.py").write_text("import large_one, gc\non = gc.isenabled()\n")
    (tmp_path / "broken_one.py").write_text("1 / 0\n")
    (tmp_path / "small_one.py").write_text("import gc\non = gc.isenabled()\n")
    import_uncollected()
    yield tmp_path
    gc.unfreeze()
    for name in ("large_one", "larger_one", "small_one"):
        sys.modules.pop(name, None)


def test_a_large_import_rests_the_collector_and_its_objects_are_left_alone(folder: Path) -> None:
    before = gc.get_freeze_count()
    module = import_module("large_one")
    assert (module.on, gc.isenabled()) == (False, True)
    assert gc.get_freeze_count() > before
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert module.__file__ == str(folder / "large_one.py")


def test_one_within_another_rests_it_to_the_end_of_the_outer_one(folder: Path) -> None:
    assert (import_module("larger_one").on, gc.isenabled()) == (False, True)


def test_others_are_imported_as_ever(folder: Path) -> None:
    before = gc.get_freeze_count()
    assert import_module("small_one").on
    assert gc.get_freeze_count() == before


def test_the_collector_works_again_after_an_import_that_failed(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        import_module("broken_one")
    assert gc.isenabled()


def test_whoever_turned_the_collector_off_has_it_so(folder: Path) -> None:
    gc.disable()
    try:
        import_module("large_one")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_library_leaves_the_collector_alone() -> None:
    code = "import gc, interlace.omni; print(gc.isenabled(), gc.get_freeze_count())"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["True", "0"]

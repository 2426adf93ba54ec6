"""scripts/check_rooms.py: the package keeps to its rooms, and the script would see it if it didn't."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_rooms.py"
spec = importlib.util.spec_from_file_location("check_rooms", SCRIPT)
assert spec is not None
assert spec.loader is not None
rooms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rooms)

TABLE = """| layer | rooms | owns |
|---|---|---|
| 1 | `low`, `base` | |
| 2 | `left` · `right` | |

| room | function | what happens |
|---|---|---|
| `low` | `started` | |
| `base` | `g` | |
| `low` | `g` | |
"""


def test_the_package_keeps_to_the_table_in_its_architecture_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert rooms.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"low": "import interlace.left"}, "interlace.low imports interlace.left"),
        ({"left": "def f():\n    from interlace.right import x"}, "interlace.left imports interlace.right"),
        ({"low": "import interlace.base", "base": "import interlace.low"}, "interlace.base -> interlace.low"),
        ({"low": "class Slot: ...", "base": "class _Slot: ..."}, "Slot: interlace.base, interlace.low"),
        ({"other": ""}, "interlace.other is in no layer"),
        ({f"low{i}": "" for i in range(13)}, "interlace: 15"),
        ({"left/inner/__init__": ""}, "left/inner"),
        ({"low": "shard = 1"}, "interlace.low: shard"),
        ({"low": "def h(all_places): ..."}, "interlace.low: place"),
        ({"low": "def start(): ..."}, "low: started"),
        ({"low": "def started(): ..."}, "low is entered twice"),
        ({"low": "\n" * 300}, "interlace/low.py (30"),
        ({"low": "def f(x: 'list[Any]') -> None: ..."}, "interlace.low.f"),
        ({"low": "class A:\n    def __call__(self) -> Any: ..."}, "interlace.low.A.__call__"),
    ],
)
def test_what_does_not_keep_to_it_is_named(
    files: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "architecture.md").write_text(TABLE)
    package = tmp_path / "interlace"
    package.mkdir()
    wanted = {"__init__": "", "left": "", "right": "", **files}
    for name, text in wanted.items():
        (package / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text + "\n\ndef g() -> None: ...\n" if name != "__init__" else text)
    assert rooms.main(tmp_path) == 1
    assert words in capsys.readouterr().out

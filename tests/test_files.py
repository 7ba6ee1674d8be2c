"""Files and folders that appear whole or not at all."""

from pathlib import Path

import pytest

from mobilebert_hf.files import atomic_write, atomic_write_text


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for text in ("first", "zwölf\n"):
        atomic_write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert names(tmp_path) == {"table.json"}


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    atomic_write_text(path, "whole")
    with pytest.raises(KeyError), atomic_write(path) as aside:
        aside.write_text({}["half"])
    with pytest.raises(TypeError), atomic_write(path) as aside:
        aside.open("w").writelines(["half", 1])
    assert path.read_text() == "whole"
    assert names(tmp_path) == {"table.json"}


def test_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "export"
    for name in ("old", "new"):
        with atomic_write(target) as aside:
            (aside / "onnx").mkdir(parents=True)
            (aside / "onnx" / name).write_text(name)
    assert names(tmp_path) == {"export", "export/onnx", "export/onnx/new"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with atomic_write(target) as left:
        left.mkdir()
    left.mkdir()
    (left / "half").touch()
    with atomic_write(target) as aside:
        assert not aside.exists()
        aside.mkdir()
    assert names(tmp_path) == {"export"}


def test_suffix_says_the_format(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "plot.svg") as aside:
        assert aside.suffix == ".svg"
        aside.touch()

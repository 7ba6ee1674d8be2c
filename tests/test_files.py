"""Files and folders that appear whole or not at all."""

from pathlib import Path

import pytest

from mobilebert_hf.files import write_aside, written_aside


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for text in ("first", "zwölf\n"):
        write_aside(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert names(tmp_path) == {"table.json"}


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_aside(path, "whole")
    with pytest.raises(KeyError), written_aside(path) as aside:
        aside.write_text({}["half"])
    with pytest.raises(TypeError), written_aside(path) as aside:
        aside.open("w").writelines(["half", 1])
    assert path.read_text() == "whole"
    assert names(tmp_path) == {"table.json"}


def test_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "export"
    for name in ("old", "new"):
        with written_aside(target) as aside:
            (aside / "onnx").mkdir(parents=True)
            (aside / "onnx" / name).write_text(name)
    assert names(tmp_path) == {"export", "export/onnx", "export/onnx/new"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with written_aside(target) as left:
        left.mkdir()
    left.mkdir()
    (left / "half").touch()
    with written_aside(target) as aside:
        assert not aside.exists()
        aside.mkdir()
    assert names(tmp_path) == {"export"}


def test_suffix_says_the_format(tmp_path: Path) -> None:
    with written_aside(tmp_path / "plot.svg") as aside:
        assert aside.suffix == ".svg"
        aside.touch()

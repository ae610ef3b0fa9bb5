"""A folder that is replaced is the older one or the whole new one, whatever comes between."""

import os
from pathlib import Path
from typing import Any

import pytest

from weibotag.core.files import replace_folder


def write(folder: Path, text: str) -> None:
    with replace_folder(folder) as fresh:
        (fresh / "model").write_text(text)
        assert not (folder / "model").exists() or (folder / "model").read_text() != text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Letters that mean something in a pattern.
@pytest.mark.parametrize("name", ["model", "model[1]*"])
def test_a_folder_is_replaced_and_what_was_killed_there_goes(name: str, tmp_path: Path) -> None:
    others = [f".{name}-b-{'a' * 32}.tmp", f".{name}-mine.old", f".model1-{'c' * 32}.old"]
    for left in (f".{name}-{'d' * 32}.tmp", f".{name}-{'e' * 32}.old", *others):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model").write_text("half")
    for text in ("one", "two"):
        write(tmp_path / name, text)
        assert (tmp_path / name / "model").read_text() == text
        assert names(tmp_path) == sorted([name, *others])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_older_folder(error: type[BaseException], tmp_path: Path) -> None:
    write(tmp_path / "model", "one")
    with pytest.raises(error), replace_folder(tmp_path / "model") as fresh:
        (fresh / "model").write_text("half")
        raise error
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "model").read_text() == "one"


def test_a_kill_between_the_renames_leaves_the_older_folder_beside(tmp_path: Path) -> None:
    write(tmp_path / "model", "one")
    replace = os.replace

    def die_at_the_second(source: Path, target: Path) -> Any:
        if source.suffix == ".tmp":
            os._exit(9)
        replace(source, target)

    child = os.fork()
    if child == 0:
        try:
            os.replace = die_at_the_second  # type: ignore[assignment]
            write(tmp_path / "model", "two")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    older = next(tmp_path.glob(".model-*.old"))
    assert (older / "model").read_text() == "one" and not (tmp_path / "model").exists()
    write(tmp_path / "model", "three")
    assert names(tmp_path) == ["model"]

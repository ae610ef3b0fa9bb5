"""Folders that several users write to: what is made in one is as open to them as its root is."""

import os
import stat
from pathlib import Path

from weibotag.core.errors import RequestError

ELSEWHERE = "choose another store by --store or WEIBOTAG_STORE"


def make_shared(root: Path, folder: Path) -> None:
    """Make `root` and the folder in it; where the root's group may write there, it may write into the folder, too.

    Raises RequestError when one of them can't be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            folder.mkdir()
            _share(root, folder, 0o7777)
    except FileExistsError:
        # Made by another process at the same time.
        if not folder.is_dir():
            raise RequestError(f"{folder}: found a file, expected a folder of the store: {ELSEWHERE}") from None
    except OSError as error:
        raise RequestError(f"{folder}: can't make this folder of the store ({error.strerror}): {ELSEWHERE}") from error


def share_file(root: Path, path: Path | int) -> None:
    """Give a new file (or its descriptor) the rights of the root, where the root's group may write there."""
    _share(root, path, 0o666)


def refuse_closed(root: Path, folder: Path, needed: int) -> None:
    """Raise RequestError unless this user has the rights `needed` (of `os.access`) to a folder that is there."""
    if not folder.exists() or os.access(folder, needed):
        return
    what = "written to" if needed & os.W_OK else "read"
    raise RequestError(
        f"{folder}: can't be {what} by this user: have its owner open the store (chmod -R g+rwX {root}; chmod g+s {root}), "
        f"or {ELSEWHERE}"
    )


def _share(root: Path, path: Path | int, most: int) -> None:
    of_root, own = root.stat(), os.stat(path)
    if not of_root.st_mode & stat.S_IWGRP:
        return
    try:
        # Without a set-group-ID bit a new file is of the group of whoever made it.
        if own.st_gid != of_root.st_gid and hasattr(os, "chown"):
            os.chown(path, -1, of_root.st_gid)
        os.chmod(path, stat.S_IMODE(own.st_mode) | of_root.st_mode & most)
    except PermissionError:
        # Not ours, or not our group: who can't use it is told so.
        return

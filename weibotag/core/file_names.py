"""Names of files as text that tables and JSON can hold, and back.

On disk a name is bytes. Python has those that are not UTF-8 as halves of surrogate pairs, which no table takes; here each is
a private character instead, U+F780 to U+F7FF.
"""

import os
import re
from pathlib import Path

# How names of pictures and clips end.
PICTURES = re.compile(r"\.(jpe?g|png|gif|webp|bmp|tiff?|heic|heif|avif)$", re.IGNORECASE)
CLIPS = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi|flv|ts)$", re.IGNORECASE)
BYTES = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
BACK = {private: half for half, private in BYTES.items()}


def name_as_text(path: str | Path) -> str:
    """Return a path as text that is UTF-8."""
    return str(path).translate(BYTES)


def path_of(text: str) -> Path:
    """Return the path that `name_as_text` wrote."""
    return Path(text.translate(BACK))


def find_name(folder: str, name: str) -> str:
    """Return the path, as text, of a file that is named in a folder.

    Where it is not there by its UTF-8 name, but by the one in GB18030, as archives made on Windows unpack, it is that.
    """
    path = str(Path(folder) / name)
    if not name.isascii() and not os.path.lexists(path_of(path)):
        other = path_of(folder) / os.fsdecode(name.encode("gb18030"))
        if os.path.lexists(other):
            return name_as_text(other)
    return path

"""Names of files as text that tables and JSON can hold, and back.

On disk a name is bytes. Python has those that are not UTF-8 as halves of surrogate pairs, which no table takes; here each is
a private character instead, U+F780 to U+F7FF.
"""

import os
import re
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

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


def is_address(name: str) -> bool:
    """Tell whether a name is an address on the web; file:// is none."""
    return "://" in name and name[:7].lower() != "file://"


def find_name(folder: str, name: str) -> str:
    """Return the path, as text, of a file that is named in a folder.

    Where it is not there by this name it is the first that is: with `\\` as Windows parts folders, composed or decomposed as
    other systems write accents, or in GB18030 as archives made on Windows unpack. A file:// address is a path.
    """
    if name[:7].lower() == "file://":
        name = name_as_text(unquote(name[7:].removeprefix("localhost"), errors="surrogateescape"))
    path = str(Path(folder) / name)
    if (name.isascii() and "\\" not in name) or os.path.lexists(path_of(path)):
        return path
    for parted in dict.fromkeys((name, name.replace("\\", "/"))):
        for form in (parted, normalize("NFC", parted), normalize("NFD", parted)):
            if os.path.lexists(path_of(str(Path(folder) / form))):
                return str(Path(folder) / form)
        other = path_of(folder) / os.fsdecode(parted.encode("gb18030"))
        if os.path.lexists(other):
            return name_as_text(other)
    return path

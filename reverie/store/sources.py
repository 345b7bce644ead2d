"""Files that others wrote, read with care: whole and regular files only, text as text, and errors that name the place."""

from __future__ import annotations

import errno
import gzip
import io
import json
import lzma
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from reverie.errors import InputError

# What the packers of the standard library raise at damage: each another one, and which depends on where the damage is.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
THINGS = "file|folder|member|caption|image|pair|row|shard|class"
ONE = re.compile(rf"^(?!several )((?:\S+ )?(?:{THINGS}))e?s\b")
THAT_ARE = re.compile(rf"^((?:\S+ )?(?:{THINGS})e?s) that are ")
ONE_THAT = re.compile(r"^((?:\S+ )?(?:caption|embedding|image|key|pair|unit))s((?: of \S+)? .*)$")
OF_ONE = {"are": "is", "have": "has", "belong": "belongs", "share": "shares", "their": "its"}
VERB = re.compile(rf"\b(?:do not (\w+)|{'|'.join(OF_ONE)})\b")
# Control characters but for tab and end of line, marks of direction, and separators of lines that are no ends of lines in a terminal.
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
GZIP = b"\x1f\x8b"
MAX_UNPACKED = 256 << 20  # bytes of a packed file read as a whole, unless it was large before; and of a line of one
MAX_SWELLING = 100  # times its packed size; sentences and JSON swell by 3 to 30


def printable(text: str) -> str:
    """Text that can be stored as UTF-8 and printed: bytes that were no UTF-8 in a file name, and half characters, are escaped."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace") if _from_bytes(text) else _escaped(text)


def harmless(text: str) -> str:
    """Text for a terminal: what would steer it, or turn the direction of what stands there, is escaped, as JSON would escape it."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", printable(text))


def _from_bytes(text: str) -> bool:
    return all(not 0xD800 <= ord(char) <= 0xDFFF or 0xDC80 <= ord(char) <= 0xDCFF for char in text)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def in_words(number: int, things: str) -> str:
    """Words about these things, of which there are so many: ``files without an ending`` of one is ``file without an ending``."""
    return ONE.sub(r"\g<1>", THAT_ARE.sub(r"\1 that is ", things)) if number == 1 else things


def counted(number: int, things: str) -> str:
    """A number and its things: 1 shard, 2,000 shards."""
    return f"{number:,} {in_words(number, things)}"


def counted_clause(number: int, clause: str) -> str:
    """A number and what its things are or do: ``captions are ok but have no text`` of one is ``1 caption is ok but has no text``."""
    return f"{number:,} {ONE_THAT.sub(_of_one, clause) if number == 1 else clause}"


def _of_one(found: re.Match[str]) -> str:
    return f"{found[1]}{VERB.sub(lambda verb: OF_ONE.get(verb[0]) or f'does not {verb[1]}', found[2])}"


def because(what: str, own: str) -> str:
    """Why a row is not taken as it is: in words that all such rows share, and then what only this one has."""
    return f"{what}: {own}"


def shared(reason: str) -> str:
    """A reason in the words that all such rows share, so that equal ones are counted together."""
    return reason.partition(": ")[0]


def is_text(text: str) -> bool:
    """Whether it can be stored: a lone surrogate, half of a character, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def what_is(path: Path) -> str | None:
    """What stands at a path in place of a regular file, or None. A pipe is waited for without end, so it must not be opened."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "nothing"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if getattr(error, "errno", None) == errno.ELOOP:
            return "a link that leads to itself"
        return f"unreadable ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISREG(mode):
        return None
    names = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in names.items() if test(mode)), "a device")


def check_file(path: Path, what: str = "") -> None:
    """Raises InputError unless there is a regular file, or what the shell hands over under /dev (``<(...)``)."""
    found = what_is(path)
    if found is None or (found == "a named pipe" and str(path).startswith("/dev/")):
        return
    named = printable(str(path))
    if found == "nothing":
        raise InputError(
            f"cannot read {what} from {named}: No such file or directory" if what else f"there is no file {named}"
        )
    raise InputError(f"{named} is {found}; give a file{f' of {what}' if what else ''}")


def read_bytes(path: Path, what: str = "") -> bytes:
    """A file, unpacked where its content is gzip. Raises InputError."""
    check_file(path, what)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not content.startswith(GZIP):
        return content
    try:
        return unpacked(content, path)
    except DAMAGED as error:
        raise InputError(f"{path} is a damaged gzip file ({error})") from error


def unpacked_limit(path: Path) -> int:
    """Bytes that what is packed in a file may swell to."""
    return max(MAX_UNPACKED, MAX_SWELLING * path.stat().st_size)


def check_swelling(path: Path, size: int, limit: int) -> None:
    """Raises InputError for more than ``limit``, that of ``unpacked_limit``."""
    if size > limit:
        raise InputError(f"{path} holds more than {limit:,} bytes once unpacked; unpack it yourself if that is meant")


def unpacked(content: bytes, path: Path) -> bytes:
    """What a gzip file holds. Raises InputError for one that swells as no text does, and what is in DAMAGED for one that is none."""
    limit = max(MAX_UNPACKED, MAX_SWELLING * len(content))
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        whole = file.read(limit + 1)
    check_swelling(path, len(whole), limit)
    return whole


def read_text(path: Path, what: str = "") -> str:
    """A file of UTF-8 text, with or without a byte-order mark. Raises InputError."""
    content = read_bytes(path, what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {_first_bad(io.BytesIO(content), error)}") from error


def read_json(path: Path, what: str = "") -> Any:
    """What a JSON file holds. Raises InputError, also for nesting that would use up the stack."""
    try:
        return json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {nested(error)}") from error


def nested(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON text, in words."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


@contextmanager
def opened_text(path: Path) -> Iterator[IO[str]]:
    """A text file, also packed by gzip; ends of lines stay as they are. What goes wrong inside is an InputError of the file."""
    check_file(path)
    try:
        with _binary(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        with _binary(path) as raw:
            raise InputError(f"{path} is not UTF-8 text: {_first_bad(raw, error)}") from error
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _binary(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return _Lines(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


class _Lines(gzip.GzipFile):
    """Lines of a packed file, of any number but not of any length: a few kilobytes can hold one that fills the memory."""

    _length = 0  # of the line that is being read

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        end = data.rfind(b"\n")
        self._length = self._length + len(data) if end < 0 else len(data) - end - 1
        if self._length > MAX_UNPACKED:
            raise InputError(f"{self.name} holds a line of more than {MAX_UNPACKED:,} bytes")
        return data


def _first_bad(raw: IO[bytes] | gzip.GzipFile, error: UnicodeDecodeError) -> str:
    """The reader decodes piece by piece and tells the place in its piece: the one in the file is found again here."""
    start = 0
    with suppress(*DAMAGED):  # behind the piece that was read
        for number, line in enumerate(iter(lambda: raw.readline(MAX_UNPACKED), b""), 1):  # which may not end
            try:
                line.decode()
            except UnicodeDecodeError as found:
                return f"{found.reason} at byte {start + found.start} (line {number}); save it as UTF-8"
            start += len(line)
    return f"{error.reason}; save it as UTF-8"

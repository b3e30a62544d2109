"""Server-sent events, as the HTML standard has them, from bytes that may be cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator

MOST_BYTES = 2**24  # of one event
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """A server sends an event without an end."""


class EventParser:
    """Gives the data of every complete event. Comments, names, ids and waiting times are passed over.

    An event that is not complete when the stream ends is dropped, as the standard says.
    """

    def __init__(self) -> None:
        self._rest = b""  # of a line that has not ended
        self._data: list[bytes] = []  # lines of an event that has not ended
        self._size = 0
        self._first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that ends in this chunk; EventTooLong for one of more than MOST_BYTES."""
        for line in self._lines(chunk):
            if not line:
                if self._data:
                    data, self._data, self._size = b"\n".join(self._data), [], 0
                    yield data
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(line)
            if self._size > MOST_BYTES:
                raise EventTooLong(f"an event has more than {MOST_BYTES} bytes")

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Lines that have ended, by LF, CR or CR LF."""
        if chunk and self._after_cr:  # the second half of a CR LF
            self._after_cr, chunk = False, chunk.removeprefix(b"\n")
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        text = self._rest + chunk
        if self._first:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._rest = text
                return
            self._first, text = False, text.removeprefix(_BOM)
        *lines, self._rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > MOST_BYTES:
            raise EventTooLong(f"a line has more than {MOST_BYTES} bytes")
        yield from lines

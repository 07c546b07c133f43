"""SFTP packets out of a stream that comes in pieces (draft-ietf-secsh-filexfer-02, section 3): uint32 length, byte type, body.

No more of a packet than its first 16 KiB is ever held. A file's data goes on as it comes, piece by piece.
"""

from collections.abc import Callable

PACKET_MAX = 256 * 1024  # OpenSSH's SFTP_MAX_MSG_LENGTH: its server ends at a longer one
HEAD_MAX = 16 * 1024  # two paths that the kernel would take, and all that stands around them
_DATA_HEAD = 4 + 4 + 256 + 8 + 4  # request id, handle (256 bytes at most, section 6.2), offset, length of the data

Sink = Callable[[memoryview], object]


class Malformed(Exception):  # noqa: N818 - names what the stream is
    """The stream is no SFTP that can be followed; the message says why."""


class Fields:
    """The fields of a packet's body, one after the other. Each getter raises Malformed where the body ends too early."""

    __slots__ = ("at", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def number(self, size: int = 4) -> int:
        """An unsigned integer of that many bytes."""
        return int.from_bytes(self._take(size))

    def string(self) -> bytes:
        """A string: its length in a uint32, then its bytes."""
        return self._take(self.number())

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.body):
            raise Malformed("a field is longer than its packet, or than any path")
        found = self.body[self.at : end]
        self.at = end
        return found


class Packets:
    """One direction of a session.

    ``begin(type, head, size)`` is called once the first bytes of a body of ``size`` bytes are there: all of it, or 16 KiB. For the
    one type that carries a file's data these are at least what stands before the data, and it returns where the data goes to
    and how many bytes of ``head`` stand before them. ``done()`` is called when the whole packet has passed.
    """

    __slots__ = ("_begin", "_data", "_data_type", "_done", "_head", "_in_body", "_missing", "_rest", "_sink", "_size", "_type")

    def __init__(
        self, data_type: int, begin: Callable[[int, bytes, int], tuple[Sink, int, int] | None], done: Callable[[], None]
    ) -> None:
        self._data_type = data_type
        self._begin = begin
        self._done = done
        self._head = bytearray()
        self._missing = 5  # bytes of the head that have not come
        self._in_body = False  # the head is that of the body, no longer length and type
        self._size = self._type = 0
        self._rest = 0  # bytes of the body after its head
        self._data = 0  # bytes of these that are a file's data
        self._sink: Sink | None = None

    @property
    def data_missing(self) -> int:
        """Bytes of a file's data that have yet to come, of the packet that is passing."""
        return self._data

    def feed(self, piece: memoryview) -> None:
        """The next bytes. Raises Malformed, after which this must not be fed again."""
        at, end = 0, len(piece)
        while at < end:
            if self._missing:
                taken = min(self._missing, end - at)
                self._head += piece[at : at + taken]
                self._missing -= taken
                at += taken
                if not self._missing:
                    self._head_is_there()
            else:
                taken = min(self._rest, end - at)
                self._pass(piece[at : at + taken])
                self._rest -= taken
                at += taken
                if not self._rest:
                    self._packet_is_over()

    def _head_is_there(self) -> None:
        head = bytes(self._head)
        self._head.clear()
        if not self._in_body:
            self._size, self._type = int.from_bytes(head[:4]) - 1, head[4]
            if not 4 <= self._size < PACKET_MAX:
                raise Malformed(f"a packet of {self._size + 1} bytes")
            self._missing = min(self._size, _DATA_HEAD if self._type == self._data_type else HEAD_MAX)
            self._in_body = True
            return
        self._rest = self._size - len(head)
        found = self._begin(self._type, head, self._size)
        if found is not None:
            self._sink, before, self._data = found
            self._pass(memoryview(head)[before:])
        if not self._rest:
            self._packet_is_over()

    def _pass(self, piece: memoryview) -> None:
        if self._data and self._sink is not None:
            wanted = piece[: self._data]
            self._sink(wanted)
            self._data -= len(wanted)

    def _packet_is_over(self) -> None:
        self._missing, self._in_body = 5, False
        self._data, self._sink = 0, None
        self._done()

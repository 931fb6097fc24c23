"""One TCP connection: read, cut into frames, hand over in turns; queue what leaves. Knows no SIP beyond framing.

Reading stops before anything is dropped: while its owner does not take a frame (``resume``), while too much of one call
waits (``hold``), while others have their turn. When nothing more can be read - the peer has closed its side, or what came
is no message - what was handed over is still answered, for ANSWER_S; then comes the refusal, then the end.

Runs in: tcp receiver. Locks: none. RFC: 3261 §18; 5626 §3.5.1 (CRLF keep-alives).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from serpy.errors import FramingError
from serpy.sip.framing import Frame, StreamFramer

if TYPE_CHECKING:
    from serpy.net.tcp import Hub
    from serpy.sip.flow import Listener

READ_BYTES: Final = 16384
TURN_MESSAGES: Final = 4  # a turn of one connection, before the others have theirs
TURN_BYTES: Final = 16384
ANSWER_S: Final = 2.0  # for answers to what was handed over, when nothing more can be read
BUSY_S: Final = 5.0  # for a request that is not answered
HOLD_S: Final = 7.0  # a receiver lets go after 5 s; this is for one that has died
SLOW_QUEUE: Final = 65536  # bytes that may wait for one reader also when all together have too many
DRAINED: Final = 16  # reads of what is not wanted any more, so that closing does not become a reset
TOO_SLOW: Final = "message too slow"
# What the loop watches a connection for, bits.
PAUSED: Final = 0
READING: Final = 1
WRITING: Final = 2


class Pending:
    """Bytes that wait to leave, and the slot they came from."""

    def __init__(self, data: bytes, origin: int) -> None:
        self.data = data  # what is left of it
        self.whole: Final = data
        self.origin: Final = origin


class Connection:
    """One connection. ``id`` names it everywhere; ``aliases`` are further ports of its peer that it leads to."""

    def __init__(
        self, hub: Hub, sock: socket.socket, listener: Listener, host: str, port: int, number: int, *, connecting: bool
    ) -> None:
        self.id: Final = number
        self.listener: Final = listener
        self.host: Final = host
        self.port: Final = port
        self.fd: Final = sock.fileno()
        self.outbound: Final = connecting
        self.connecting = connecting
        self.closed = False
        self.closing = False  # close when all has left
        self.leaving = False  # nothing more is read, and nobody new is sent here
        self.known = False  # its user has proved who they are
        self.aliases: list[int] = []
        self.messages = 0
        self.owed = 0  # requests handed over that have not been answered
        self.opened_at: Final = hub.loop.now()
        self.used_at = self.opened_at
        self.queued = 0  # bytes
        self._hub: Final = hub
        self._sock: Final = sock
        self._framer: Final = StreamFramer()
        self._buffered = 0  # bytes in the framer, as the hub has been told
        self._queue: Final[deque[Pending]] = deque()
        self._held: Frame | None = None  # offered and not taken
        self._in_turn = False  # whole messages may wait until its turn comes
        self._holds = 0
        self._hold_until = 0.0
        self._last_words = b""  # the answer to what was no message
        self._reason = ""  # why nothing more is read
        self._inside_since = 0.0  # 0.0 = between two messages
        self._watched = READING | WRITING if connecting else READING
        self._write_by = hub.deadline(hub.settings.connect_s) if connecting else 0.0

    def __repr__(self) -> str:
        return f"<connection {self.id:x} with {self.host}:{self.port}>"

    @property
    def is_idle(self) -> bool:
        """True when nobody waits for something of the other, or has for long."""
        if self._queue or self._framer.is_inside:
            return False
        return not self.owed or self._hub.loop.now() >= self.used_at + BUSY_S

    @property
    def is_waiting(self) -> bool:
        """True when it is not read because something of it waits here, or with a receiver."""
        return self._held is not None or self._in_turn or self._holds > 0

    # --- out

    def send(self, data: bytes, origin: int, *, close: bool = False) -> None:
        """Send *data*, now or as soon as the peer takes it; with *close* as the last thing."""
        hub = self._hub
        if self.closed or self.closing or not hub.has_room(self.queued, len(data)):
            hub.user.unsent(data, origin)
            return
        self.closing = close
        if origin >= 0:  # an answer to a keep-alive is no use of the connection
            self.used_at = hub.loop.now()
        self._queue.append(Pending(data, origin))
        self._change_queued(len(data))
        if len(self._queue) == 1 and not self.connecting:
            self._write_by = hub.deadline(hub.settings.send_s)
            self._flush()
        if self.owed and _is_final(data):
            self.owed -= 1
            if not self.owed and self.leaving:
                self._say_last()

    def finish(self) -> None:
        """Close when everything queued has left."""
        if self._queue:
            self.closing = True
        else:
            self.close(self._reason or "finished")

    def close(self, reason: str) -> None:
        """Close now; what has not left is given back. Harmless when closed."""
        if self.closed:
            return
        self.closed = True
        hub = self._hub
        hub.loop.remove_reader(self.fd)
        if self.leaving:
            self._drain()
        self._sock.close()
        hub.buffered -= self._buffered
        hub.forget(self)
        hub.user.closed(self, reason)
        while self._queue:
            pending = self._queue.popleft()
            hub.user.unsent(pending.whole, pending.origin)
        self._change_queued(-self.queued)

    def _drain(self) -> None:
        """Read what is there: to close over it would send a reset, which overtakes the answers on their way."""
        with contextlib.suppress(OSError):
            for _ in range(DRAINED):
                if not self._sock.recv(READ_BYTES):
                    return

    def _change_queued(self, change: int) -> None:
        self.queued += change
        self._hub.queued += change

    def _flush(self) -> None:
        hub = self._hub
        queue = self._queue
        while queue:
            pending = queue[0]
            try:
                sent = self._sock.send(pending.data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self.close(f"write: {exc.strerror}")
                return
            self._change_queued(-sent)
            if sent < len(pending.data):
                pending.data = pending.data[sent:]
                continue
            queue.popleft()
            self._write_by = hub.deadline(hub.settings.send_s)
        if not queue:
            self._write_by = 0.0
            if self.closing:
                self.close(self._reason or "finished")
                return
        self._watch()

    def _watch(self) -> None:
        """Be called for what may be done; a connection that is neither read nor written to is not watched at all,
        else the end of it would wake us again and again.
        """
        if self.closed or self.connecting:
            return
        wanted = (PAUSED if self.leaving or self.is_waiting else READING) | (WRITING if self._queue else PAUSED)
        if wanted == self._watched:
            return
        self._watched = wanted
        loop = self._hub.loop
        if wanted == PAUSED:
            loop.remove_reader(self.fd)
            return
        loop.add_reader(self.fd, self.ready)
        loop.watch(self.fd, readable=bool(wanted & READING), writable=bool(wanted & WRITING))

    # --- in

    def ready(self) -> None:
        """The socket is readable or writable, or its peer is gone."""
        self._hub.loop.current = self  # for the report of a bug
        if self.connecting:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.close(f"connect: {errno.errorcode.get(error, error)}")
                return
            self.connecting = False
            self._write_by = self._hub.deadline(self._hub.settings.send_s)
            self._flush()
            return
        if self._queue:
            self._flush()
        if not self.closed and not self.leaving and not self.is_waiting:
            self._read()

    def resume(self) -> None:
        """Offer the frame again that was not taken, and go on with a turn."""
        frame = self._held
        if self.closed or frame is None:
            return
        self._hub.loop.current = self
        self._held = None
        self._take(frame)

    def turn(self) -> None:
        """The turn of this connection has come."""
        self._in_turn = False
        if self.closed or self._held is not None:
            return
        self._hub.loop.current = self
        self._take(None)

    def hold(self) -> None:
        """Do not read on until as many ``release()`` as ``hold()`` have come; HOLD_S at most."""
        self._holds += 1
        self._hold_until = self._hub.loop.now() + HOLD_S
        self._inside_since = 0.0
        self._watch()

    def release(self) -> None:
        """The receiver that said ``hold()`` takes more."""
        self._holds -= self._holds > 0
        if not self._holds and not self.closed:
            self._wait_for_turn()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.close(f"read: {exc.strerror}")
            return
        if not data:
            self._stop_reading("closed by the peer", b"")
            return
        self._framer.feed(data)
        self._take(None)
        if self.messages or self.outbound:  # who has never said anything does not live on by keep-alives
            self.used_at = self._hub.loop.now()

    def _take(self, frame: Frame | None) -> None:
        """Hand over *frame* and what follows it, up to the end of a turn."""
        count = TURN_MESSAGES
        size = TURN_BYTES
        while not (self.closed or self.closing or self.leaving):
            if frame is None:
                if self._holds:
                    break
                if (count <= 0 or size <= 0) and self._framer.is_inside:
                    self._wait_for_turn()
                    break
                try:
                    frame = self._framer.next()
                except FramingError as exc:
                    self._stop_reading("no message", self._hub.user.refused(self, exc))
                    break
                if frame is None:
                    break
            if not self._hub.user.received(self, frame):
                self._held = frame
                break
            self._inside_since = 0.0
            count -= 1
            size -= len(frame.data)
            frame = None
        self._end_turn()

    def _wait_for_turn(self) -> None:
        if not self._in_turn:
            self._in_turn = True
            self._hub.queue(self)

    def _end_turn(self) -> None:
        """Note what is left in the framer; the rest of a message has to come in time."""
        if self.closed:
            return
        left = self._framer.size
        self._hub.buffered += left - self._buffered
        self._buffered = left
        if not left or self.is_waiting:
            self._inside_since = 0.0
        elif self._inside_since == 0.0:
            self._inside_since = self._hub.loop.now()
        if left and self._hub.is_choked(self, left):
            self.close("too much waits")
            return
        self._watch()

    def refusal(self) -> tuple[int, bytes]:
        """(kind, bytes) of what the framer has refused."""
        return self._framer.refused_kind, self._framer.refused

    # --- the end

    def _stop_reading(self, reason: str, last_words: bytes) -> None:
        """Nothing more can be read: wait for the answers to what could, then send *last_words* and close."""
        self.leaving = True
        self._reason = reason
        self._last_words = last_words
        self._inside_since = 0.0
        self._hub.user.left(self)
        if not self.owed:
            self._say_last()
            return
        self._hub.loop.call_at(self._hub.loop.now() + ANSWER_S, self._say_last)
        self._watch()

    def _say_last(self) -> None:
        if self.closed or self.closing:
            return
        self.owed = 0  # whatever is still to come comes too late
        if self._last_words:
            self.send(self._last_words, -1)
        if not self.closed:
            self.finish()

    def overdue(self, now: float) -> str:
        """Why this connection has to go, "" when it may stay."""
        if self._write_by and now >= self._write_by:
            return "connect timeout" if self.connecting else "send timeout"
        settings = self._hub.settings
        if self._inside_since and settings.message_s and now >= self._inside_since + settings.message_s:
            return TOO_SLOW
        if self._holds and now >= self._hold_until:
            self._holds = 1
            self.release()
        return "idle" if settings.lifetime_s and now >= self.used_at + settings.lifetime_s else ""


def _is_final(data: bytes) -> bool:
    """True for a final answer, of SIP or HTTP."""
    return (data[:8] == b"SIP/2.0 " and data[8:9] != b"1") or (data[:5] == b"HTTP/" and data[9:10] != b"1")

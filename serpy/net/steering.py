"""Which receiver owns a Call-ID: one hash, in Python and as a program the kernel runs per datagram, side by side.

``owner()`` decides. The kernel program only saves the hand-off between receivers: whatever it cannot see (odd
spelling, long first headers, fragments) lands on socket 0 and is passed on by the receiver. Both look at the first
HASHED bytes of the Call-ID value and stop at the first byte <= 0x20.

Runs in: master (program), udp receiver (owner). Locks: none. RFC: 3261 §8.1.1.4.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct
from typing import Final

log = logging.getLogger(__name__)

HASHED: Final = 24
MULTIPLIER: Final = 31
MASK: Final = 0xFFFFFFFF

SO_ATTACH_REUSEPORT_CBPF: Final = 51
FIRST_OFFSET: Final = 15  # the line end of "SIP/2.0 200 OK"
LAST_OFFSETS: Final = (760, 560, 400, 250)  # a kernel with a small net.core.optmem_max refuses the longer programs
MAX_INSTRUCTIONS: Final = 4096


def owner(call_id: bytes, children: int) -> int:
    """The index of the receiver, 0 … *children*-1, that processes every message of *call_id*."""
    if children <= 1:
        return 0
    value = 0
    for byte in call_id[:HASHED]:
        if byte <= 0x20:
            break
        value = (value * MULTIPLIER + byte) & MASK
    return (value ^ (value >> 15)) % children


def attach_program(sock: socket.socket, children: int) -> bool:
    """Make the kernel deliver to the *owner*-th of *children* sockets bound, in order, to the address of *sock*.

    False when this kernel will not: then everything works through the hand-off, a little slower.
    """
    if children <= 1:
        return True
    for last in LAST_OFFSETS:
        program = build_program(children, FIRST_OFFSET, last)
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, header)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:
                continue
            log.info("no steering in the kernel: %s", exc)
            return False
        # Compiled code frees a variable after its last use: this one has to outlive the call above.
        return len(code) > 0
    log.info("no steering in the kernel: net.core.optmem_max is too small")
    return False


# Classic BPF: A and X are 32 bit registers, M[] scratch memory, jt and jf are forward and 8 bit, JA is 32 bit.
LD_IMM: Final = 0x00
LD_MEM: Final = 0x60
LDX_IMM: Final = 0x01
LDX_MEM: Final = 0x61
LDW_IND: Final = 0x40  # A = 32 bits at X + k; past the end of the packet the program returns 0
LDB_IND: Final = 0x50
ST: Final = 0x02
STX: Final = 0x03
ADD_K: Final = 0x04
ADD_X: Final = 0x0C
MUL_K: Final = 0x24
OR_K: Final = 0x44
RSH_K: Final = 0x74
MOD_K: Final = 0x94
XOR_X: Final = 0xAC
JA: Final = 0x05
JEQ_K: Final = 0x15
JGT_K: Final = 0x25
RET_K: Final = 0x06
RET_A: Final = 0x16
TAX: Final = 0x07
TXA: Final = 0x87

Instruction = tuple[int, int, int, int]  # code, jt, jf, k

CASELESS: Final = 0x20202020
GROUP: Final = 48  # offsets that share one pair of long jumps; their short ones must stay under 256 instructions


def build_program(children: int, first: int, last: int) -> bytes:
    """The program that looks for a Call-ID header whose line end is at *first* … *last*-1, as ``sock_filter``s."""
    tail = _tail(children)
    head: list[Instruction] = []
    jumps: list[tuple[int, int]] = []  # (position of a JA, where in the tail it goes)
    for start in range(first, last, GROUP):
        offsets = range(start, min(start + GROUP, last))
        size = len(offsets) * 5
        for number, offset in enumerate(offsets):
            left = size - number * 5  # from the first instruction of this offset to the end of the group
            head.append((LDX_IMM, 0, 0, offset))
            head.append((LDW_IND, 0, 0, 0))
            head.append((OR_K, 0, 0, CASELESS))
            head.append((JEQ_K, left - 4 + 1, 0, _word(b"\ncal")))
            head.append((JEQ_K, left - 5 + 2, 0, _word(b"\ni: ")))
        head.append((JA, 0, 0, 2))
        jumps.append((len(head), _LONG_FORM))
        head.append((JA, 0, 0, 0))
        jumps.append((len(head), _COMPACT_FORM))
        head.append((JA, 0, 0, 0))
    head.append((RET_K, 0, 0, 0))
    for position, target in jumps:
        head[position] = (JA, 0, 0, len(head) + target - position - 1)
    program = head + tail
    assert len(program) <= MAX_INSTRUCTIONS
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _word(text: bytes) -> int:
    """Four bytes as the number that LDW and OR_K CASELESS make of them: a line feed looks like ``*`` there."""
    return int.from_bytes(text, "big") | CASELESS


_LONG_FORM: Final = 0
_COMPACT_FORM: Final = 13


def _tail(children: int) -> list[Instruction]:
    """Entered at _LONG_FORM or _COMPACT_FORM with X on the line feed: verify, find the value, hash it."""
    fail: Instruction = (RET_K, 0, 0, 0)
    code: list[Instruction] = [
        # "\nCall-ID:" in any case
        (LDB_IND, 0, 0, 0),
        (JEQ_K, 1, 0, 0x0A),
        fail,
        (LDW_IND, 0, 0, 4),
        (OR_K, 0, 0, CASELESS),
        (JEQ_K, 1, 0, _word(b"l-id")),
        fail,
        (LDB_IND, 0, 0, 8),
        (JEQ_K, 1, 0, 0x3A),
        fail,
        (TXA, 0, 0, 0),
        (ADD_K, 0, 0, 9),
        (JA, 0, 0, 5),
        # "\ni: "
        (LDB_IND, 0, 0, 0),
        (JEQ_K, 1, 0, 0x0A),
        fail,
        (TXA, 0, 0, 0),
        (ADD_K, 0, 0, 3),
        (TAX, 0, 0, 0),
    ]
    for _ in range(2):  # at most two blanks before the value
        code += [(LDB_IND, 0, 0, 0), (JEQ_K, 0, 3, 0x20), (TXA, 0, 0, 0), (ADD_K, 0, 0, 1), (TAX, 0, 0, 0)]
    code += [(STX, 0, 0, 1), (LD_IMM, 0, 0, 0), (ST, 0, 0, 0)]
    for number in range(HASHED):
        after = (HASHED - number) * 8 - 3
        code += [
            (LDX_MEM, 0, 0, 1),
            (LDB_IND, 0, 0, number),
            (JGT_K, 0, after, 0x20),
            (TAX, 0, 0, 0),
            (LD_MEM, 0, 0, 0),
            (MUL_K, 0, 0, MULTIPLIER),
            (ADD_X, 0, 0, 0),
            (ST, 0, 0, 0),
        ]
    code += [
        (LD_MEM, 0, 0, 0),
        (TAX, 0, 0, 0),
        (RSH_K, 0, 0, 15),
        (XOR_X, 0, 0, 0),
        (MOD_K, 0, 0, children),
        (RET_A, 0, 0, 0),
    ]
    return code

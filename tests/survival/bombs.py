"""A program that forks and exits, for ever on the move: what a walk of /proc has to race against. Bounded in generations."""

import platform
import struct

GENERATIONS = 2_000_000  # at some 50 us each: more than a row lasts, and an end by itself if all else fails

# setresuid(-1, -1, getuid()) takes the saved uid away, so that the file's owner may not signal it; then fork, the parent exits.
_X86_64 = bytes.fromhex(
    "b866000000" "0f05"  # mov eax, 102 (getuid); syscall
    "89c2"  # mov edx, eax
    "bfffffffff" "beffffffff"  # mov edi, -1; mov esi, -1
    "b875000000" "0f05"  # mov eax, 117 (setresuid); syscall
    "bb{generations}"  # mov ebx, generations
    "b839000000" "0f05"  # next: mov eax, 57 (fork); syscall
    "85c0" "7504"  # test eax, eax; jnz exit
    "ffcb" "75f1"  # dec ebx; jnz next
    "b83c000000" "31ff" "0f05"  # exit: mov eax, 60; xor edi, edi; syscall
    .format(generations=struct.pack("<I", GENERATIONS).hex())
)  # fmt: skip

_PYTHON = f"""#!/usr/bin/python3
import os
os.setresuid(-1, -1, os.getuid())
for _ in range({GENERATIONS}):
    if os.fork():
        os._exit(0)
"""


def mobile() -> bytes:
    """The program: a static ELF of 200 bytes on x86-64, else a script (which is slower, and can't be set-user-id)."""
    if platform.machine() != "x86_64":
        return _PYTHON.encode()
    base, headers = 0x400000, 64 + 56
    size = headers + len(_X86_64)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return elf + _X86_64

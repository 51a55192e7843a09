"""Runs a program under a kernel that lacks a feature: `python -m tests.kernel.refusing COMMAND PROGRAM ARGUMENT...`.

bpf(2) with COMMAND, a number of enum bpf_cmd, fails with EINVAL as on kernels that do not know it (seccomp).
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
import platform
import struct
import sys

BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Classic BPF: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K."""
NUMBER, FIRST_ARGUMENT = 0, 16
"""Offsets in struct seccomp_data."""
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ct.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ct.c_ushort), ("filter", ct.c_char_p)]


def refuse(command: int) -> None:
    """From now on, for this process and all it becomes."""
    steps = [
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_EQUAL, 0, 3, BPF_SYSCALL[platform.machine()]),
        (LOAD_WORD, 0, 0, FIRST_ARGUMENT),
        (JUMP_EQUAL, 0, 1, command),
        (RETURN, 0, 0, ERRNO | errno.EINVAL),
        (RETURN, 0, 0, ALLOW),
    ]
    filter_ = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = Program(len(steps), filter_)
    libc = ct.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ct.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ct.get_errno(), os.strerror(ct.get_errno()))


if __name__ == "__main__":
    refuse(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 (the filter stays with this process)

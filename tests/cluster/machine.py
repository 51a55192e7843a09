"""A machine in small: network, mount, PID, UTS and IPC namespaces around an init, and programs that run in it.

It ends with its init, whatever ran in it, and its init ends with the process that made it, however that ends. Its
network namespace has no name and goes with the last process, and a veth goes with either end.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.cluster.polling import eventually

BEGIN_S = 10.0
END_S = 10.0
COMMAND_S = 60.0

_INIT = """
mount --make-rshared /
ip link set lo up
echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries
echo ready
exec env --ignore-signal=CHLD sleep infinity >/dev/null
"""
"""Connections of programs that were killed are not kept for minutes, and the network with them, when the other end is
gone too. What inherits an ignored SIGCHLD need not wait for the orphans it adopts."""


class MachineError(Exception):
    """A command failed in a machine, or a program of it did not start; the message says what it said."""


class Machine:
    """Context manager. `directory` takes the logs of its programs; it is not removed."""

    def __init__(self, name: str, directory: Path, preparation: str = "") -> None:
        """`preparation`: lines of sh that mount what else it has of its own."""
        self.name = name
        self.directory = directory
        self.pid = 0
        """Of its init; 0 where it is off."""
        self._preparation = preparation
        self._unshare: subprocess.Popen[str] | None = None
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        self.power_on()
        return self

    def __exit__(self, *exception: object) -> None:
        self.power_off()

    def power_on(self) -> None:
        """Until it is ready for commands. MachineError."""
        if threading.current_thread() is not threading.main_thread():
            raise MachineError(f"{self.name}: machines end with the thread that starts them; start it in the main one")
        self.directory.mkdir(parents=True, exist_ok=True)
        namespaces = ["--net", "--pid", "--uts", "--ipc", "--mount", "--propagation=private", "--mount-proc"]
        lines = f"set -e\n{self._preparation}\nhostname {shlex.quote(self.name)}\n{_INIT}"
        with (self.directory / "init.log").open("ab") as log:
            self._unshare = subprocess.Popen(
                # If this process is killed the kernel kills unshare, and then the init and all the machine.
                [
                    "setpriv",
                    "--pdeathsig=KILL",
                    "unshare",
                    *namespaces,
                    "--fork",
                    "--kill-child=KILL",
                    "sh",
                    "-c",
                    lines,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != "ready\n":
            self.power_off()
            raise MachineError(f"cannot set up {self.name}: {_tail(self.directory / 'init.log')}")
        self.pid = _child(self._unshare)

    def power_off(self) -> None:
        """At once, as by pulling the plug; returns when all that ran in it has ended."""
        if self._unshare is None:
            return
        if self.pid and self._unshare.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # it has ended for unshare when all in its PID namespace has
        else:
            self._unshare.kill()
        self.pid = 0
        self._unshare.wait(END_S)
        assert self._unshare.stdout is not None
        self._unshare.stdout.close()
        self._unshare = None
        for program in self._programs:
            program.wait_until_ended()

    def command(self, *argv: str) -> list[str]:
        """`argv` as run inside."""
        spaces = ["--net", "--pid", "--uts", "--ipc", "--mount"]
        return ["nsenter", f"--target={self.pid}", *spaces, "--wd=/", *argv]

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a command inside to its end and return its output. MachineError where it fails."""
        return self._run(self.command(*argv), argv, stdin)

    def ip(self, *lines: str) -> None:
        """Commands of `ip` in its network, without the leading "ip"; PIDs are this host's. MachineError."""
        argv = ("ip", "-batch", "-")
        self._run(["nsenter", f"--target={self.pid}", "--net", *argv], argv, "\n".join(lines))

    def program(self, name: str, *argv: str) -> Program:
        """A long-running program, not started yet."""
        made = Program(self, name, argv)
        self._programs.append(made)
        return made

    def _run(self, command: Sequence[str], argv: Sequence[str], stdin: str | None) -> str:
        done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, timeout=COMMAND_S)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise MachineError(f"`{shlex.join(argv)}` failed on {self.name} with {done.returncode}: {said}")
        return done.stdout


class Program:
    """One of a machine's long-running programs, to be ended and started again. Its log is NAME.log."""

    def __init__(self, machine: Machine, name: str, argv: Sequence[str]) -> None:
        self.machine = machine
        self.name = name
        self.argv = argv
        self.log = machine.directory / f"{name}.log"
        self._nsenter: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._nsenter is not None and self._nsenter.poll() is None

    @property
    def pid(self) -> int:
        """As the host counts. MachineError where it does not run."""
        if self._nsenter is None or self._nsenter.poll() is not None:
            raise MachineError(f"{self.name} on {self.machine.name} does not run")
        return _child(self._nsenter)

    def start(self) -> None:
        """Returns at once; see `wait_until`."""
        if self.running:
            raise MachineError(f"{self.name} on {self.machine.name} runs already")
        with self.log.open("ab") as log:
            self._nsenter = subprocess.Popen(
                self.machine.command(*self.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, timeout_s: float = END_S) -> None:
        """SIGTERM, and SIGKILL where that is not heard in time; returns when it has ended."""
        if self._nsenter is None:
            return
        self._end("TERM")
        try:
            self._nsenter.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self._end("KILL")
        self.wait_until_ended()

    def wait_until_ended(self) -> None:
        """Returns when it has ended."""
        if self._nsenter is not None:
            self._nsenter.wait(END_S)

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float) -> None:
        """Poll until `condition` holds. MachineError with the end of the log where the program ends before."""

        def holds() -> object:
            if not self.running:
                raise MachineError(f"{self.name} on {self.machine.name} ended: {_tail(self.log)}")
            return condition()

        eventually(holds, f"{self.name}: {what}", timeout_s)

    def _end(self, name: str) -> None:
        # The program is nsenter's child, and only the child is in the PID namespace.
        if self.running:
            subprocess.run(["kill", f"-{name}", str(self.pid)], check=False, capture_output=True)


def _child(parent: subprocess.Popen[str] | subprocess.Popen[bytes]) -> int:
    """The only child of a process, as soon as it has one. MachineError where the parent ends."""

    def found() -> int:
        if parent.poll() is not None:
            raise MachineError(f"{parent.args!r} ended with {parent.returncode}")
        pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return next((pid for pid in pids if _parent(pid) == parent.pid), 0)

    return eventually(found, "a child process", BEGIN_S, every_s=0.005)


def _parent(pid: int) -> int:
    try:
        # The name before it, in parentheses, may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _tail(log: Path, bytes_: int = 2000) -> str:
    return log.read_bytes()[-bytes_:].decode(errors="replace").strip()

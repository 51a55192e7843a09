"""Compiles the kernel programs: bpf/flow.bpf.c to the object files that the agent carries.

    .venv/bin/python -m tools.compile_bpf

Two objects from the same sources: flow.bpf.o, and flow-compat.bpf.o for kernels before 5.11, which have no
coarse clock. Both keep their BTF and lose their DWARF.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BPF = ROOT / "bpf"
OBJECTS = ROOT / "agent" / "podwire_agent" / "objects"
"""Package data of the agent; never committed."""

VARIANTS = {"flow.bpf.o": ["-DPODWIRE_COARSE_CLOCK"], "flow-compat.bpf.o": []}


@cache
def uapi_include_options() -> tuple[str, ...]:
    """Where asm/types.h is: a BPF target has no architecture of its own, so clang has to be asked for the host's."""
    tried = subprocess.run(["clang", "-print-multiarch"], check=False, capture_output=True, text=True)
    triple = tried.stdout.strip()
    if tried.returncode or not triple:  # a clang that was built without it
        triple = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    directory = Path("/usr/include") / triple
    return ("-idirafter", str(directory)) if directory.is_dir() else ()


def compile_object(source: Path, target: Path, options: list[str] | None = None) -> None:
    """One C file to one BPF object with BTF; CalledProcessError after clang has printed why not."""
    command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{BPF}"]
    # Paths in what the compiler writes would make the object depend on where it was built.
    command += [f"-ffile-prefix-map={ROOT}=.", *uapi_include_options(), *(options or [])]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    subprocess.run(["llvm-strip", "-g", str(target)], check=True)


def main() -> int:
    """Compiles each variant to a temporary name and renames it, so that nobody loads half an object."""
    OBJECTS.mkdir(exist_ok=True)
    for name, options in VARIANTS.items():
        target = OBJECTS / name
        fresh = target.with_suffix(".new")
        try:
            compile_object(BPF / "flow.bpf.c", fresh, options)
        except FileNotFoundError as missing:
            print(f"cannot compile bpf/flow.bpf.c: {missing.filename} is not installed: make setup", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as failed:
            print(f"cannot compile bpf/flow.bpf.c: {failed.cmd[0]} failed", file=sys.stderr)
            return 1
        fresh.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Collects what BCC compiles at run time: our C sources, and the few headers that stand for a kernel's.

    .venv/bin/python -m tools.bcc_sources

BCC asks for a tree of kernel headers, but the program needs only those of the user-space API. The tree made here
holds copies of linux-libc-dev's that are included by anything, and the files of bpf/bcc/ in the place of the rest.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.compile_bpf import BPF, OBJECTS, uapi_include_options

OWN = BPF / "bcc"
TREE = OBJECTS / "bcc"
INCLUDE = re.compile(r"^\s*#\s*include\s*<([^>]+)>", re.MULTILINE)
BCC_ITSELF = (
    "asm/page.h",
    "linux/bpf_common.h",
    "linux/if_ether.h",
    "linux/if_packet.h",
    "linux/kconfig.h",
    "linux/log2.h",
    "linux/types.h",
    "linux/version.h",
)
"""What the headers inside libbcc include."""


def make_tree(target: Path) -> None:
    """Make `target` anew: src/ and include/, as BCC_KERNEL_SOURCE wants it. FileNotFoundError."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    sources = fresh / "src"
    sources.mkdir(parents=True)
    for source in sorted(BPF.glob("*.[ch]")):
        shutil.copyfile(source, sources / source.name)
    shutil.copytree(OWN, fresh / "include", copy_function=shutil.copyfile)
    for name, found in _uapi_headers():
        copy = fresh / "include" / "uapi" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, copy)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _uapi_headers() -> Iterator[tuple[str, Path]]:
    """Name and place of every header of the user-space API that is included, directly or not."""
    roots = [Path(root) for root in ("/usr/include", *uapi_include_options()[1:])]
    wanted = [name for source in BPF.glob("*.[ch]") for name in INCLUDE.findall(source.read_text())]
    wanted += BCC_ITSELF
    known: set[str] = set()
    while wanted:
        name = wanted.pop().removeprefix("uapi/")
        if name in known or not name.startswith(("linux/", "asm/", "asm-generic/")):
            continue
        known.add(name)
        candidates = [OWN / name, OWN / "uapi" / name, *(root / name for root in roots)]
        found = next((path for path in candidates if path.exists()), None)
        if found is None:
            raise FileNotFoundError(name)
        if OWN not in found.parents:
            yield name, found
        wanted += INCLUDE.findall(found.read_text())


def main() -> int:
    """Make the tree that the package carries."""
    try:
        make_tree(TREE)
    except FileNotFoundError as missing:
        print(
            f"cannot collect what BCC needs: no {missing}: install linux-libc-dev and clang (make setup)",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

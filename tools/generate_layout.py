"""Writes agent/podwire_agent/layout.py from the BTF of bpf/flow.h.

    .venv/bin/python -m tools.generate_layout [--check]

Needs clang and bpftool. The compiler decides offsets and padding, so that no struct is written twice by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.compile_bpf import BPF, ROOT, compile_object

LAYOUT = ROOT / "agent" / "podwire_agent" / "layout.py"
HEADER = '''"""The structs and enums that the kernel program and user space share.

Generated from bpf/flow.h by make generate; do not edit. Meaning and units stand there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
'''
DECLARATION = re.compile(r"^(struct|enum) (\w+) \{", re.MULTILINE)
LIMITS = "flow_limit"
"""The one enum that says nothing about the bytes in a map but through the arrays it sizes."""

BtfType = dict[str, Any]


class Btf:
    """The types of an object file, by id, as `bpftool -j btf dump` tells them."""

    def __init__(self, object_file: Path) -> None:
        dump = subprocess.run(
            ["bpftool", "-j", "btf", "dump", "file", str(object_file)], check=True, capture_output=True, text=True
        )
        self._by_id: dict[int, BtfType] = {kind["id"]: kind for kind in json.loads(dump.stdout)["types"]}

    def named(self, kind: str, name: str) -> BtfType:
        """The struct or enum of that name; LookupError where the object has none."""
        for candidate in self._by_id.values():
            if candidate["kind"] == kind.upper() and candidate["name"] == name:
                return candidate
        raise LookupError(f"no {kind} {name} in the BTF")

    def numpy_format(self, type_id: int) -> str:
        """The Python source of the numpy format of a type."""
        described = self._by_id[type_id]
        match described["kind"]:
            case "TYPEDEF":
                inner = self.numpy_format(described["type_id"])
                return inner.replace('"u', '">u') if described["name"].startswith("__be") else inner
            case "INT":
                size = described["size"]
                return f'"i{size}"' if described["encoding"] == "SIGNED" and size > 1 else f'"u{size}"'
            case "ENUM":
                return f'"u{described["size"]}"'
            case "STRUCT":
                return str(described["name"]).upper()
            case "ARRAY":
                return self._array_format(described)
        raise ValueError(f"flow.h has a member that a map's value cannot have: {described}")

    def _array_format(self, array: BtfType) -> str:
        element = self._by_id[array["type_id"]]
        if element["kind"] == "INT" and element["name"] == "char":
            return f'"S{array["nr_elems"]}"'
        return f"({self.numpy_format(array['type_id'])}, ({array['nr_elems']},))"


def read_btf(header: Path) -> tuple[Btf, list[tuple[str, str]]]:
    """The header's BTF and its structs and enums in their order, as (kind, name)."""
    declared = DECLARATION.findall(header.read_text())
    # clang keeps no type that nothing refers to: a variable of each.
    source = f'#include "{header.resolve()}"\n' + "".join(f"{kind} {name} layout_{name};\n" for kind, name in declared)
    with tempfile.TemporaryDirectory() as directory:
        source_file = Path(directory) / "layout.c"
        source_file.write_text(source)
        object_file = Path(directory) / "layout.o"
        compile_object(source_file, object_file)
        return Btf(object_file), declared


def enum_source(described: BtfType) -> str:
    """An IntEnum with the C names."""
    class_name = "".join(word.capitalize() for word in described["name"].split("_"))
    members = "".join(f"    {value['name']} = {value['val']}\n" for value in described["values"])
    return f'class {class_name}(IntEnum):\n    """enum {described["name"]}"""\n\n{members}'


def struct_source(described: BtfType, btf: Btf) -> str:
    """A numpy dtype with every offset spelt out, as source."""
    rows = []
    for member in described["members"]:
        if member["bits_offset"] % 8 or member.get("bitfield_size"):
            raise ValueError(f"struct {described['name']} has a bit-field: {member['name']}")
        rows.append((member["name"], btf.numpy_format(member["type_id"]), member["bits_offset"] // 8))
    columns = [
        ("names", [f'"{name}"' for name, _, _ in rows]),
        ("formats", [text for _, text, _ in rows]),
        ("offsets", [str(offset) for _, _, offset in rows]),
    ]
    lists = "".join(f'        "{column}": [{", ".join(cells)}],\n' for column, cells in columns)
    return (
        f"{described['name'].upper()}: Final[np.dtype[np.void]] = np.dtype(\n"
        f'    {{\n{lists}        "itemsize": {described["size"]},\n    }}\n)\n'
        f'"""struct {described["name"]}"""\n'
    )


def fingerprint(btf: Btf, declared: list[tuple[str, str]]) -> str:
    """A short digest that changes exactly when bytes in a map change their place or their meaning."""
    described: dict[str, object] = {}
    for kind, name in declared:
        found = btf.named(kind, name)
        if kind == "struct":
            members = [[m["name"], btf.numpy_format(m["type_id"]), m["bits_offset"]] for m in found["members"]]
            described[name] = [found["size"], members]
        elif name != LIMITS:
            described[name] = [[value["name"], value["val"]] for value in found["values"]]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def generate() -> str:
    """The text of layout.py."""
    btf, declared = read_btf(BPF / "flow.h")
    enums = {name: enum_source(btf.named(kind, name)) for kind, name in declared if kind == "enum"}
    structs = [struct_source(btf.named(kind, name), btf) for kind, name in declared if kind == "struct"]
    fingerprint_source = (
        f'FINGERPRINT: Final = "{fingerprint(btf, declared)}"\n'
        '"""Of the names, values, offsets and sizes: maps pinned under another one hold other bytes."""\n'
    )
    source = "\n\n".join([HEADER, *enums.values(), "\n".join(structs), fingerprint_source])
    formatter = [str(Path(sys.executable).with_name("ruff")), "format", "--stdin-filename", LAYOUT.name, "-"]
    formatted = subprocess.run(formatter, input=source, check=True, capture_output=True, text=True, cwd=ROOT)
    return formatted.stdout


def main() -> int:
    """Writes the file; with --check only says whether it is current."""
    parser = argparse.ArgumentParser(description="Generate layout.py from bpf/flow.h")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the file is not current")
    arguments = parser.parse_args()
    text = generate()
    if LAYOUT.exists() and LAYOUT.read_text() == text:
        return 0
    if arguments.check:
        print(f"{LAYOUT.relative_to(ROOT)} is not what bpf/flow.h says: run make generate", file=sys.stderr)
        return 1
    LAYOUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

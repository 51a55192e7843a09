"""The structs of bpf/flow.h, of the compiled programs' maps and of layout.py are one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podwire_agent import layout
from podwire_agent.kernel.rule_maps import RULE_MAPS
from tools import generate_layout
from tools.compile_bpf import BPF, VARIANTS, compile_object

Described = dict[str, Any]

SHAPES = {
    "rule_slot": "rule_set_shape",
    "rule_interfaces": "interface_shape",
    "rule_addresses": "address_shape",
    "rule_prefixes": "prefix_shape",
    "rule_ports": "port_shape",
    "rule_protocols": "protocol_shape",
    "filtered_slots": "filtered_shape",
}
MAPS = {
    "flow_map_shape": (layout.FLOW_KEY, layout.FLOW_STATS),
    "ledgers": (layout.LEDGER_KEY, layout.LEDGER),
    "attachments": (np.dtype("u4"), layout.ATTACHMENT),
    "flow_slots": (np.dtype("u4"), None),
    "packets": (np.dtype("u4"), layout.PACKET),
    "known_verdicts": (layout.FLOW_KEY, layout.KNOWN_VERDICT),
    **{SHAPES[name]: (shape.key, shape.value) for name, shape in RULE_MAPS.items()},
    **dict.fromkeys(RULE_MAPS, (np.dtype("u4"), None)),
}


class Types:
    """The BTF of one object."""

    def __init__(self, object_file: Path) -> None:
        command = ["bpftool", "-j", "btf", "dump", "file", str(object_file)]
        dump = subprocess.run(command, check=True, capture_output=True, text=True)
        self.by_id: dict[int, Described] = {kind["id"]: kind for kind in json.loads(dump.stdout)["types"]}

    def resolve(self, type_id: int) -> Described:
        described = self.by_id[type_id]
        while described["kind"] in {"TYPEDEF", "CONST", "VOLATILE"}:
            described = self.by_id[described["type_id"]]
        return described

    def size(self, type_id: int) -> int:
        described = self.resolve(type_id)
        if described["kind"] == "ARRAY":
            return int(described["nr_elems"]) * self.size(described["type_id"])
        return int(described["size"])

    def map_members(self, name: str) -> dict[str, int]:
        """The members of a map's declaration and the types they point to."""
        variable = next(kind for kind in self.by_id.values() if kind["kind"] == "VAR" and kind["name"] == name)
        declaration = self.resolve(variable["type_id"])
        pointers = {member["name"]: self.resolve(member["type_id"]) for member in declaration["members"]}
        return {member: kind["type_id"] for member, kind in pointers.items() if kind["kind"] == "PTR"}

    def map_names(self) -> set[str]:
        section = next(kind for kind in self.by_id.values() if kind["kind"] == "DATASEC" and kind["name"] == ".maps")
        return {str(self.by_id[variable["type_id"]]["name"]) for variable in section["vars"]}


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def types(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Types:
    """Of the programs as they are now, whatever `make build` has left."""
    object_file = tmp_path_factory.mktemp("objects") / request.param
    compile_object(BPF / "flow.bpf.c", object_file, VARIANTS[request.param])
    return Types(object_file)


def assert_same(types: Types, type_id: int, dtype: np.dtype[Any]) -> None:
    """Size, names and offsets, all the way down."""
    assert types.size(type_id) == dtype.itemsize
    described = types.resolve(type_id)
    if described["kind"] == "ARRAY":
        element = dtype.subdtype[0] if dtype.subdtype else None
        if element is not None:
            assert_same(types, described["type_id"], element)
    if described["kind"] != "STRUCT":
        assert dtype.fields is None or described["kind"] == "ARRAY"
        return
    assert dtype.fields is not None
    in_c = {member["name"]: member["bits_offset"] // 8 for member in described["members"]}
    in_numpy = {name: int(field[1]) for name, field in dtype.fields.items()}
    assert in_numpy == in_c
    for member in described["members"]:
        assert_same(types, member["type_id"], dtype.fields[member["name"]][0])


def test_layout_py_is_what_flow_h_generates() -> None:
    assert generate_layout.LAYOUT.read_text() == generate_layout.generate()


def test_every_map_of_the_program_has_its_dtypes_here(types: Types) -> None:
    assert types.map_names() == MAPS.keys()


@pytest.mark.parametrize("name", MAPS)
def test_keys_and_values_of_a_map_are_the_dtypes_byte_for_byte(types: Types, name: str) -> None:
    members = types.map_members(name)
    key, value = MAPS[name]
    assert_same(types, members["key"], key)
    if value is not None:
        assert_same(types, members["value"], value)


def test_ports_are_big_endian_and_nothing_else_is() -> None:
    fields = layout.FLOW_KEY.fields
    assert fields is not None
    assert {name for name, field in fields.items() if field[0].str.startswith(">")} == {"src_port", "dst_port"}


def test_ledger_has_a_cell_for_every_reason() -> None:
    assert layout.LEDGER["unsupported"].shape == (len(layout.UnsupportedReason),)


def test_attachment_has_an_index_for_every_direction() -> None:
    assert layout.ATTACHMENT["before_low"].shape == (len(layout.FlowDirection),)


@pytest.mark.parametrize(
    ("find", "replace", "changes"),
    [
        pytest.param(r"/\*.*?\*/", "", False, id="comments do not change the fingerprint"),
        pytest.param(r"EXTENSION_LIMIT = \d+", "EXTENSION_LIMIT = 3", False, id="nor does a limit of the parser"),
        pytest.param(r"__u8 seen_fin", "__u8 seen_end", True, id="another name of a member does"),
        pytest.param(
            r"__u16 generation;(.*?)__u8 estimated;", r"__u8 estimated;\1__u16 generation;", True, id="and an order"
        ),
        pytest.param(r"UNSUPPORTED_ARP = 0", "UNSUPPORTED_ARP = 9", True, id="and what an index stands for"),
    ],
)
def test_fingerprint_changes_with_the_bytes_in_the_maps(tmp_path: Path, find: str, replace: str, changes: bool) -> None:
    header = tmp_path / "changed.h"
    text, count = re.subn(find, replace, (BPF / "flow.h").read_text(), flags=re.DOTALL)
    assert count, "the header no longer has what this test changes"
    text = re.sub(r"_Static_assert.*?;", "", text)
    header.write_text(text)
    assert (generate_layout.fingerprint(*generate_layout.read_btf(header)) != layout.FINGERPRINT) is changes

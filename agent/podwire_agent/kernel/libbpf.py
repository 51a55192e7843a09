"""Declarations of the libbpf functions in use (libbpf 1), nothing else: their C types, as its headers say."""

from __future__ import annotations

import ctypes as ct
from functools import cache

from podwire_agent.errors import LoadError

SONAME = "libbpf.so.1"


class MapCreateOpts(ct.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    ]


class ObjectOpenOpts(ct.Structure):
    """struct bpf_object_open_opts, up to the log."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("object_name", ct.c_char_p),
        ("relaxed_maps", ct.c_bool),
        ("pin_root_path", ct.c_char_p),
        ("_attach_prog_fd", ct.c_uint32),
        ("kconfig", ct.c_char_p),
        ("btf_custom_path", ct.c_char_p),
        ("kernel_log_buf", ct.c_char_p),
        ("kernel_log_size", ct.c_size_t),
        ("kernel_log_level", ct.c_uint32),
    ]


class TestRunOpts(ct.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


class MapInfo(ct.Structure):
    """struct bpf_map_info, up to the name."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
    ]


class ProgInfo(ct.Structure):
    """struct bpf_prog_info, up to the id."""

    _fields_ = [("type", ct.c_uint32), ("id", ct.c_uint32)]


class LinkInfo(ct.Structure):
    """struct bpf_link_info, as it is for a TCX link (Linux 6.6)."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("_padding", ct.c_uint32),
        ("ifindex", ct.c_uint32),
        ("attach_type", ct.c_uint32),
    ]


class LinkCreateOpts(ct.Structure):
    """struct bpf_link_create_opts, up to the flags."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("flags", ct.c_uint32),
        ("iter_info", ct.c_void_p),
        ("iter_info_len", ct.c_uint32),
        ("target_btf_id", ct.c_uint32),
    ]


_HANDLE = ct.c_void_p
_FD = ct.c_int
_BUFFER = ct.c_void_p
_COUNT = ct.POINTER(ct.c_uint32)

_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "libbpf_set_print": (ct.c_void_p, [ct.c_void_p]),
    "libbpf_probe_bpf_helper": (ct.c_int, [ct.c_int, ct.c_int, ct.c_void_p]),
    "bpf_object__open_file": (_HANDLE, [ct.c_char_p, ct.POINTER(ObjectOpenOpts)]),
    "bpf_object__load": (ct.c_int, [_HANDLE]),
    "bpf_object__close": (None, [_HANDLE]),
    "bpf_object__next_map": (_HANDLE, [_HANDLE, _HANDLE]),
    "bpf_object__next_program": (_HANDLE, [_HANDLE, _HANDLE]),
    "bpf_map__name": (ct.c_char_p, [_HANDLE]),
    "bpf_map__fd": (_FD, [_HANDLE]),
    "bpf_map__key_size": (ct.c_uint32, [_HANDLE]),
    "bpf_map__value_size": (ct.c_uint32, [_HANDLE]),
    "bpf_map__reuse_fd": (ct.c_int, [_HANDLE, _FD]),
    "bpf_map__set_autocreate": (ct.c_int, [_HANDLE, ct.c_bool]),
    "bpf_program__name": (ct.c_char_p, [_HANDLE]),
    "bpf_program__fd": (_FD, [_HANDLE]),
    "bpf_map_create": (
        _FD,
        [ct.c_int, ct.c_char_p, ct.c_uint32, ct.c_uint32, ct.c_uint32, ct.POINTER(MapCreateOpts)],
    ),
    "bpf_map_lookup_elem": (ct.c_int, [_FD, _BUFFER, _BUFFER]),
    "bpf_map_update_elem": (ct.c_int, [_FD, _BUFFER, _BUFFER, ct.c_uint64]),
    "bpf_map_delete_elem": (ct.c_int, [_FD, _BUFFER]),
    "bpf_map_update_batch": (ct.c_int, [_FD, _BUFFER, _BUFFER, _COUNT, ct.c_void_p]),
    "bpf_map_lookup_batch": (ct.c_int, [_FD, _BUFFER, _BUFFER, _BUFFER, _BUFFER, _COUNT, ct.c_void_p]),
    "bpf_obj_pin": (ct.c_int, [_FD, ct.c_char_p]),
    "bpf_obj_get": (_FD, [ct.c_char_p]),
    "bpf_obj_get_info_by_fd": (ct.c_int, [_FD, ct.c_void_p, _COUNT]),
    "bpf_prog_test_run_opts": (ct.c_int, [_FD, ct.POINTER(TestRunOpts)]),
    "bpf_prog_query": (ct.c_int, [ct.c_int, ct.c_int, ct.c_uint32, _COUNT, ct.c_void_p, _COUNT]),
    "bpf_link_create": (_FD, [_FD, ct.c_int, ct.c_int, ct.c_void_p]),
    "bpf_link_update": (ct.c_int, [_FD, _FD, ct.c_void_p]),
    "bpf_link_detach": (ct.c_int, [_FD]),
}


@cache
def library() -> ct.CDLL:
    """The loaded library, silent, with every function typed. LoadError where it is missing or too old."""
    try:
        lib = ct.CDLL(SONAME, use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise LoadError(f"cannot use {SONAME}: {error}; install libbpf 1 (Debian: libbpf1)") from error
    lib.libbpf_set_print(None)
    return lib

"""pyroute2's encoder of TC messages, without the rest of pyroute2.

Importing the package itself imports all that it can do, databases and test doubles included: 230 modules, 0.15 s and
13 MB, a third of what the agent may take to start. The one module that is needed takes a tenth of it. So its package
is made but not run while that module is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

_PACKAGE = "pyroute2"
_HEADER_BYTES = 16
"""struct nlmsghdr: whoever sends the message makes its own."""


def _encoder() -> Any:
    name = f"{_PACKAGE}.netlink.rtnl.tcmsg"
    if _PACKAGE in sys.modules:
        return import_module(name).tcmsg
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise ImportError(f"{_PACKAGE} is missing; install Podwire with its extra: pip install podwire[agent]")
    sys.modules[_PACKAGE] = module_from_spec(spec)
    try:
        return import_module(name).tcmsg
    finally:
        del sys.modules[_PACKAGE]  # whoever imports it later gets it whole


_TcMessage = _encoder()


def encode(index: int, handle: int, parent: int, info: int, kind: str, **options: int | str) -> bytes:
    """struct tcmsg and its attributes; `options` are TCA_<KIND>_*, by their names in lower case."""
    prefix = f"TCA_{kind.upper()}"
    attributes: list[tuple[str, Any]] = [("TCA_KIND", kind)]
    if options:
        nested = [(f"{prefix}_{name.upper()}", value) for name, value in options.items()]
        attributes.append(("TCA_OPTIONS", {"attrs": nested}))
    message = _TcMessage()
    message["index"], message["handle"], message["parent"], message["info"] = index, handle, parent, info
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[_HEADER_BYTES:])

"""The fields that lines of several kinds share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Time = Annotated[
    str, msgspec.Meta(description="RFC 3339, UTC, microseconds", extra_json_schema={"format": "date-time"})
]
Address = Annotated[str, msgspec.Meta(description="IPv4 or IPv6 (RFC 5952), no port, no zone")]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535, description="0 where the packets have no ports")]
Direction = Annotated[Literal["from_pod", "to_pod"], msgspec.Meta(description="The pod's: from_pod left the pod")]
BootId = Annotated[str, msgspec.Meta(description="The node's boot; cumulative figures begin anew with another one")]

"""Write the JSON Schemas of the stdout sink's lines to docs/reference (make generate)."""

from __future__ import annotations

import json
from pathlib import Path

from podwire_agent.sinks.edges import EdgeLine
from podwire_agent.sinks.lines import FlowLine, LedgerLine, schema

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"


def main() -> None:
    """One file a kind of line."""
    for line in (FlowLine, EdgeLine, LedgerLine):
        text = json.dumps(schema(line), indent=2, ensure_ascii=False)
        (REFERENCE / f"{line.__struct_config__.tag}.schema.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

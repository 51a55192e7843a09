"""The Podwire operator: puts agents on the nodes that monitors select, and tells what became of each monitor."""

__version__ = "0.1.0"

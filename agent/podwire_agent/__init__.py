"""The Podwire agent: attaches to the pods of one node, counts, and hands the counts on."""

__version__ = "0.1.0"

"""Statements about flows between the agents of two nodes, over HTTP and mutual TLS."""

"""Rows that are made: answers of a model on a server, ranked pairs, and a person's review."""

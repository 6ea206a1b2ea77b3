"""Generators of the published architectures at reduced size, with random weights; the tests use them too."""

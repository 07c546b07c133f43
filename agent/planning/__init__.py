"""A grant → ordered steps. Pure apart from looking at the host."""

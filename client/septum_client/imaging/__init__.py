"""Bytes to data set to values: hostile files end with a code, never with an exception's text."""

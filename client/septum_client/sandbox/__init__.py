"""Hostile bytes are read in a child process, with a limit on memory and on time.

A hospital's files come from scanners, vendors and CDs of forty years. Parsers
and decoders of them are large, many are written in C, and files that crash,
hang or exhaust them exist. So this process never parses one: a child does,
and answers with pseudonyms, arrays and closed codes.
"""

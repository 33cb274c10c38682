"""Attacks on what leaves a hospital; each receives only what its threat model grants."""

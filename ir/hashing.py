"""BLAKE2b, the hash of this project, without the 5 ms that `hashlib` takes to load OpenSSL, which has none of it."""

try:
    from _blake2 import blake2b  # where hashlib takes it from, in CPython
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b"]

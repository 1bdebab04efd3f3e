"""The packet loop is built with the project (agw/native/build.py); all else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["agw/native/build.py:ffi"])

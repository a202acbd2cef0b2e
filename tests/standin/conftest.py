"""Fixtures of the stand-in's own tests."""

from standin.fixtures import standin_potcars, standin_server, standin_vasp

__all__ = ["standin_potcars", "standin_server", "standin_vasp"]

"""pymatgen's ``Structure`` as a field: an object between our functions, its dictionary in JSON and in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    StructureField = Structure
    ReadableStructure = Structure
else:  # pymatgen takes half a second to import, which who only reads candidates need not wait for

    def _structure(value: Any) -> Structure:
        """The structure, of its dictionary where it is one; ``ValueError`` in words where it is none."""
        from pymatgen.core.structure import Structure

        if isinstance(value, Structure):
            return value
        try:
            return Structure.from_dict(dict(value))
        except Exception as error:  # a dictionary can break pymatgen in ways nobody lists
            raise ValueError(f"is no structure ({type(error).__name__}: {error}); give pymatgen's dictionary") from None

    def _readable(value: Any) -> Structure | None:
        try:
            return _structure(value)
        except ValueError:
            return None

    _AS_DICT = PlainSerializer(lambda structure: None if structure is None else structure.as_dict())
    _SCHEMA = WithJsonSchema({"type": "object", "additionalProperties": True})
    StructureField = Annotated[Any, PlainValidator(_structure), _AS_DICT, _SCHEMA]
    # one that cannot be read is None
    ReadableStructure = Annotated[Any, PlainValidator(_readable), _AS_DICT, _SCHEMA]

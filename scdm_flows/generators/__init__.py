"""Generators: where candidates come from. One file each; ``GENERATORS`` names them by the config's ``kind``.

To add one: a config class in the union of ``scdm_flows.config``, a file here, a line in ``GENERATORS``.
"""

from __future__ import annotations

from scdm_flows.generators.base import Generator
from scdm_flows.generators.files import FilesGenerator
from scdm_flows.generators.promoted import PromotedGenerator
from scdm_flows.generators.scdm import ScdmGenerator
from scdm_flows.generators.several import SeveralGenerator

__all__ = ["GENERATORS", "Generator"]

GENERATORS: dict[str, Generator] = {
    "scdm": ScdmGenerator("scdm"),
    "unscdm": ScdmGenerator("unscdm"),
    "files": FilesGenerator(),
}
GENERATORS["several"] = SeveralGenerator(dict(GENERATORS))
GENERATORS["promoted"] = PromotedGenerator()

"""Where the FireWorks configuration and the campaign files are: in the checkout, or in the installed
package.
"""

from __future__ import annotations

from pathlib import Path

import scdm_flows
from scdm_flows.errors import ConfigError


def launchpad_dir() -> Path:
    """The ``launchpad`` folder of the checkout, or its copy in a wheel installation.

    Raises
    ------
    ConfigError
        If there is neither, which is a broken installation.
    """
    package = Path(scdm_flows.__file__).resolve().parent
    for folder in (package / "_launchpad", package.parent / "launchpad"):
        if (folder / "my_launchpad.yaml").is_file():
            return folder
    raise ConfigError(f"the launchpad folder is missing beside {package}; install scdm-flows again")

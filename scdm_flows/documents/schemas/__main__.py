"""Write the schemas of all documents anew; exit code 1 where a change needs a new schema_version first."""

from __future__ import annotations

import sys

from scdm_flows.documents.schemas import write

if __name__ == "__main__":
    written, refused = write(accept="--accept" in sys.argv[1:])
    sys.stdout.write("".join(f"wrote {name}\n" for name in written) or "nothing has changed\n")
    sys.stderr.write("".join(f"{text}\n" for text in refused))
    sys.exit(bool(refused))

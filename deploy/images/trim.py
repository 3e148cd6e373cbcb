"""Remove from an environment what the control plane never imports, 150 MB of it.

python trim.py SITE_PACKAGES

Kubernetes' client is called with plain JSON, so neither its asynchronous twin nor the generated
classes of every resource are needed; of botocore's descriptions of services those that S3 and its
credentials use. A path that is gone ends this with an error: look again what the new version has.
"""

import shutil
import sys
from pathlib import Path

KUBERNETES = ("kubernetes/aio", "kubernetes/client/api", "kubernetes/client/models")
SERVICES = {"s3", "signin", "sso", "sso-oidc", "sts"}


def doomed(site):
    """What goes of the packages in the folder `site`. A package's own __init__ stays."""
    twin, *generated = (site / name for name in KUBERNETES)
    data = site / "botocore" / "data"
    missing = [path for path in (twin, *generated, *(data / name for name in SERVICES))
               if not path.is_dir()]  # fmt: skip
    if missing:
        sys.exit(f"trim: {', '.join(map(str, missing))} is not there: correct {__file__}")
    for folder in generated:
        for path in (*folder.glob("*.py"), *folder.glob("__pycache__/*.pyc")):
            if not path.name.startswith("__init__."):
                yield path
    yield twin
    yield from (path for path in data.iterdir() if path.is_dir() and path.name not in SERVICES)


def main():
    for path in list(doomed(Path(sys.argv[1]))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()

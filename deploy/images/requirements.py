"""Print what pyproject.toml requires, for a layer of its own that code does not change.

python requirements.py [EXTRA...]      the core's requirements and those of the extras
python requirements.py --only torch    one line of any of them
"""

import re
import sys
import tomllib
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(project, extras):
    """Lines for pip: the core's, then each extra's."""
    optional = project.get("optional-dependencies", {})
    unknown = sorted(set(extras) - set(optional))
    if unknown:
        sys.exit(f"requirements: no extra {', '.join(unknown)}; there are {', '.join(optional)}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


def only(project, name):
    """The one line that requires the distribution `name`."""
    lines = requirements(project, project.get("optional-dependencies", {}))
    found = sorted({line for line in lines if NAME.match(line).group() == name})
    if len(found) != 1:
        sys.exit(f"requirements: pyproject.toml names {name} {len(found)} times, not once")
    return found


def main():
    text = Path(__file__).with_name("pyproject.toml")
    if not text.exists():
        text = Path(__file__).resolve().parents[2] / "pyproject.toml"
    project = tomllib.loads(text.read_text(encoding="utf-8"))["project"]
    arguments = sys.argv[1:]
    if arguments[:1] == ["--only"]:
        print("\n".join(only(project, arguments[1])))
    else:
        print("\n".join(requirements(project, arguments)))


if __name__ == "__main__":
    main()

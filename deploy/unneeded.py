"""Names of the installed packages that a requirement, such as `segloop[otel]`, does not need: the Dockerfile removes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(requirement: Requirement, seen: dict[tuple[str, str], None]) -> Iterator[str]:
    """Canonical names of a requirement's package and of all that it needs here; those not installed are left out."""
    name = canonicalize_name(requirement.name)
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return
    yield name
    for extra in ("", *sorted(requirement.extras)):
        if (name, extra) in seen:
            continue
        seen[name, extra] = None
        for text in package.requires or ():
            below = Requirement(text)
            if below.marker is None or below.marker.evaluate({"extra": extra}):
                yield from needed(below, seen)


def unneeded(requirement: str) -> list[str]:
    """Canonical names of the installed packages that the requirement does not need."""
    keep = set(needed(Requirement(requirement), {}))
    installed = {canonicalize_name(_name(package)) for package in distributions()}
    return sorted(installed - keep)


def _name(package: Distribution) -> str:
    return package.metadata["Name"]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}\n" for name in unneeded(sys.argv[1])))

# SPDX-License-Identifier: MIT
"""What a wheel and an sdist must hold, and nothing else: ``git ls-files | python3 .ci/contents.py WHEEL SDIST``.

Needs `packaging`, which knows what valid metadata are.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
ROOT_FILES = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
FIELDS = (
    "name",
    "version",
    "summary",
    "license_expression",
    "license_files",
    "requires_python",
    "keywords",
)

tracked = set(sys.stdin.read().splitlines())
package = {name for name in tracked if name.startswith("orch_events/")}
tested_with = {name for name in tracked if name.startswith(("tests/", "typings/"))}
assert "orch_events/py.typed" in package and tracked >= ROOT_FILES and tested_with


def same(what: str, found: set[str], expected: set[str]) -> None:
    assert found == expected, (
        f"{what}: lacks {sorted(expected - found)}, should not have {sorted(found - expected)}"
    )


(wheel_name,) = (name for name in sys.argv[1:] if name.endswith(".whl"))
(sdist_name,) = (name for name in sys.argv[1:] if name.endswith(".tar.gz"))
with zipfile.ZipFile(wheel_name) as wheel:
    names = wheel.namelist()
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    metadata = Metadata.from_email(wheel.read(f"{info}/METADATA"), validate=True)
same("wheel", set(names), package | {f"{info}/{name}" for name in METADATA})
with tarfile.open(sdist_name) as sdist:
    found = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
same("sdist", found, package | tested_with | ROOT_FILES | {"PKG-INFO"})

missing = [field for field in FIELDS if not getattr(metadata, field)]
assert not missing, f"metadata: lacks {missing}"
versions = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14, 15)}
assert {"Typing :: Typed"} | versions <= set(metadata.classifiers or ()), metadata.classifiers
needs = [
    str(requirement)
    for requirement in metadata.requires_dist or ()
    if "extra ==" not in str(requirement)
]
assert not needs, f"metadata: it depends on {needs}"
described = (metadata.description_content_type, (metadata.description or "").strip())
assert described == ("text/markdown", Path("README.md").read_text(encoding="utf-8").strip()), (
    "it is not the README"
)
print(f"{len(names)} files in the wheel, {len(found)} in the sdist")

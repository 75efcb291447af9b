# SPDX-License-Identifier: MIT
"""`mutants` makes one change at a time, of what is run and of nothing else, and knows which tests to run."""

from typing import Final

from .mutants import BROAD, KNOWS, ROOT, all_files, changes_of, modules_of, mutant, other_modules_of

SOURCE: Final = '''# A licence
"""Of a module: 0 < 1."""

def f(x: "int < 0", y: int = 0) -> "1 < 0":
    """Of a function: 0 < 1."""
    global total
    sql = f"SELECT id FROM events WHERE id < {x} AND id > 2"
    text = "one < another" + "!"
    while x < y and not sql:
        total += 2
        try:
            g(x)
        except ValueError:
            x = 3
            break
        finally:
            g(y)
    return text
'''


def test_each_mutant_has_one_change() -> None:
    changed = {f"{change.before} → {change.after}" for change in changes_of(SOURCE)}
    assert {
        "0 → 1",
        "x < y → x <= y",
        "x < y and (not sql) → x < y or not sql",
        "not sql → sql",
        "total += 2 → pass",
        "g(x) → pass",
        "g(y) → pass",
        "break → continue",
        "try: pass except ValueError: x = 3 break → try: pass except ValueError: pass",
        "'SELECT id FROM events WHERE id < ' → 'SELECT id FROM events WHERE id <= '",
        "return text → return None",
    } <= changed
    assert len(changed) == 14  # and the try without its end
    sound = mutant(SOURCE, -1).splitlines()
    for number, change in enumerate(changes_of(SOURCE)):
        made = mutant(SOURCE, number).splitlines()
        assert made[0] == "# A licence"
        differ = [line for line in made if line not in sound]
        assert len(differ) <= 1 and (differ or len(made) < len(sound)), change
        compile("\n".join(made), "mutant", "exec")


def test_every_file_has_tests_that_know_it() -> None:
    files = all_files()
    assert "orch_events/_core/paging.py" in files
    modules = {module for file in files for module in (*modules_of(file), *other_modules_of(file))}
    assert modules == {*BROAD, *(module for known in KNOWS.values() for module in known)}
    for module in modules:
        assert (ROOT / f"tests/test_{module}.py").is_file()
    named = {f"orch_events/{file}.py" for file in KNOWS}
    assert named - {*files} == {
        "orch_events/_core.py",
        "orch_events/_storage/sqlite.py",
        "orch_events/_storage/postgres.py",
    }

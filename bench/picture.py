"""The picture of a source tree in numbers: lengths of files and functions, what the type checker is not told, who imports whom.

    python bench/picture.py [TREE]        (default: the serpy beside it)

Run it on two trees to compare them. Lengths are lines, docstrings and comments included. An import counts once for each
statement; those for the type checker alone are shown behind a plus.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

FILE_LIMITS = (400, 600)
FUNCTION_LIMITS = (40, 60)
MARKS = {
    "casts": r"\bcast\(",
    "type: ignore": r"#\s*type:\s*ignore",
    "of these type-abstract": r"type:\s*ignore\[type-abstract\]",
    "Any": r"\bAny\b",
    "noqa": r"#\s*noqa",
    "fmt: skip": r"#\s*fmt:\s*skip",
}


class Tree:
    """All Python files below *top*, read and parsed once."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.texts = {path: path.read_text(encoding="utf-8") for path in sorted(top.rglob("*.py"))}
        self.parsed = {path: ast.parse(text) for path, text in self.texts.items()}

    def room(self, path: Path) -> str:
        """The package or file below the top that *path* belongs to."""
        return path.relative_to(self.top).parts[0].removesuffix(".py")

    def file_lengths(self) -> list[int]:
        """Lines of each file."""
        return [len(text.splitlines()) for text in self.texts.values()]

    def function_lengths(self) -> list[int]:
        """Lines of each function and method."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for tree in self.parsed.values() for node in ast.walk(tree) if isinstance(node, kinds)]
        return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes]

    def marks(self) -> dict[str, int]:
        """How often each of MARKS stands in a line that is no import."""
        lines = [line for text in self.texts.values() for line in text.splitlines()]
        lines = [line for line in lines if not re.match(r"\s*(from|import)\s", line)]
        return {name: sum(len(re.findall(pattern, line)) for line in lines) for name, pattern in MARKS.items()}

    def arrows(self) -> dict[str, dict[str, list[int]]]:
        """Importer -> imported -> [at run time, for the type checker], between rooms of the tree."""
        found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for path, tree in self.parsed.items():
            typing_only = _typing_only(tree)
            for node in ast.walk(tree):
                for room in self._imported(node):
                    if room != self.room(path):
                        found[self.room(path)][room][node in typing_only] += 1
        return found

    def _imported(self, node: ast.AST) -> set[str]:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts = [name.split(".") for name in names]
        return {each[1] for each in parts if each[0] == self.top.name and len(each) > 1 and self._is_room(each[1])}

    def _is_room(self, name: str) -> bool:
        return (self.top / name).is_dir() or (self.top / f"{name}.py").exists()


def _typing_only(tree: ast.AST) -> set[ast.AST]:
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    return {
        node for guard in guards if getattr(guard.test, "id", "") == "TYPE_CHECKING" for node in ast.walk(guard)
    }  # fmt: skip


def circles(arrows: dict[str, dict[str, list[int]]]) -> list[str]:
    """Pairs of rooms that import each other at run time."""
    runs = {(one, other) for one, others in arrows.items() for other, counts in others.items() if counts[0]}
    return sorted(f"{one} <-> {other}" for one, other in runs if one < other and (other, one) in runs)


def lengths(name: str, values: list[int], limits: tuple[int, int]) -> str:
    """One line about *values*."""
    parts = statistics.quantiles(values, n=100)
    over = ", ".join(f"{sum(value > limit for value in values)} over {limit}" for limit in limits)
    return (
        f"{name:<10} {len(values):>5}   lines {sum(values):>6}   median {statistics.median(values):.0f}   "
        f"p90 {parts[89]:.0f}   p99 {parts[98]:.0f}   max {max(values)}   {over}"
    )


def report(tree: Tree) -> list[str]:
    """The whole picture."""
    arrows = tree.arrows()
    lines = [
        lengths("files", tree.file_lengths(), FILE_LIMITS),
        lengths("functions", tree.function_lengths(), FUNCTION_LIMITS),
        ", ".join(f"{name} {count}" for name, count in tree.marks().items()),
        "",
        "imports between packages (run time + type checker):",
    ]
    for room, others in sorted(arrows.items()):
        ranked = sorted(others.items(), key=lambda item: (-sum(item[1]), item[0]))
        shown = [f"{name} {counts[0]}" + (f"+{counts[1]}" if counts[1] else "") for name, counts in ranked]
        lines.append(f"  {room:<12} {', '.join(shown)}")
    totals: Counter[str] = Counter()
    for others in arrows.values():
        for counts in others.values():
            totals["statements"] += sum(counts)
            totals["arrows"] += 1
    lines.append(f"{totals['arrows']} arrows, {totals['statements']} statements")
    lines.append(f"both ways at run time: {', '.join(circles(arrows)) or 'none'}")
    return lines


def main() -> None:
    """Print the picture of the tree named by the argument."""
    default = Path(__file__).resolve().parents[1] / "serpy"
    top = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else default
    if not any(top.rglob("*.py")):
        sys.exit(f"no Python files in {top}")
    sys.stdout.write("\n".join(report(Tree(top))) + "\n")


if __name__ == "__main__":
    main()

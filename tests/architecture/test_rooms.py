"""The house's rules, checked: who imports whom, which names stand where, and what leaves a template unquoted."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import nodes

from nemodeploy.adapters import resources
from nemodeploy.core import rendering
from nemodeploy.engines import ENGINES
from nemodeploy.runtimes import RUNTIMES

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("nemodeploy/**/*.py"))


def test_imports_go_downwards_only() -> None:
    words = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [*ENGINES, *(name for name in RUNTIMES if name != "none")])
def test_a_plugins_name_stands_in_its_own_room_only(name: str) -> None:
    at_home = {"engines", "runtimes", "programs"}
    strangers = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not at_home & set(path.parts) and f'"{name}"' in path.read_text()
    ]
    # The built-in default names one runtime.
    assert set(strangers) <= {"nemodeploy/core/defaults.py"}


@pytest.mark.parametrize("name", sorted(resources.templates()))
def test_every_value_leaves_a_template_through_a_filter(name: str) -> None:
    tree = rendering.environment(resources.templates()).parse(resources.templates()[name])
    for output in tree.find_all(nodes.Output):
        for node in output.nodes:
            if not isinstance(node, nodes.TemplateData):
                assert _is_safe(node), f"{name}:{node.lineno} lets a value out unquoted"


def _is_safe(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        return node.name in rendering.FILTERS
    if isinstance(node, nodes.CondExpr):
        return all(_is_safe(part) for part in (node.expr1, node.expr2) if part is not None)
    return isinstance(node, nodes.Const) and str(node.value).strip() == ""


def test_the_lint_sees_an_unquoted_value() -> None:
    tree = rendering.environment({}).parse("echo {{ plan.name }}")
    values = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    assert not all(_is_safe(node) for node in values if not isinstance(node, nodes.TemplateData))


@pytest.mark.parametrize("module", ["paramiko", "jinja2", "rich", "yaml", "h11"])
def test_help_is_quick_because_it_does_not_import(module: str) -> None:
    code = (
        "import sys\nfrom nemodeploy.cli.main import run\n"
        f"run(['--help'], as_json=False)\nsys.exit({module!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0


def test_no_function_is_longer_than_50_lines_and_no_file_than_350() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                documented = len((ast.get_docstring(node) or "").splitlines())
                assert length - documented <= 50, f"{path}:{node.lineno} {node.name}"


def test_files_are_written_by_one_adapter() -> None:
    """A rename or a write anywhere else may replace what is no regular file."""
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if "sandbox" not in path.relative_to(ROOT).parts and path.name != "files.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _writes_a_file(node)
    }
    assert found == set()


def _writes_a_file(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    renames = name == "replace" and len(call.args) == 1 and not call.keywords  # that of a text has two, a value's names
    return renames or name in ("write_text", "write_bytes", "rename", "renames")


def test_the_search_for_writes_sees_them() -> None:
    words = ("new.replace(path)", "path.write_text(text)", "os.rename(a, b)", "a.replace('x', 'y')", "replace(a, b=1)")
    calls = [ast.parse(one).body[0].value for one in words]  # type: ignore[attr-defined]
    assert [_writes_a_file(one) for one in calls] == [True, True, True, False, False]


# Every place that writes to a stream, a terminal or a log of ours, and why it may. Whatever else is shown passes `say`
# and `tell` of cli/words.py, which wash it.
SINKS = {
    "nemodeploy/cli/words.py": {"click.echo", "click.confirm", "click.prompt"},  # say, tell and their like
    "nemodeploy/cli/reporters.py": {
        "rich.console.Console",
        "Console",
        "self.console.print",
        "self.console.status",
    },  # washed
    "nemodeploy/cli/options.py": {"logging.basicConfig"},  # with a handler that tells
    "nemodeploy/cli/chat.py": {"input"},  # a prompt of our own
    "nemodeploy/adapters/terminal.py": {"sys.stderr.write", "writing.write"},  # each washes
    "nemodeploy/adapters/transports/openssh.py": {"os.write"},  # into a pipe of its own
}
SINK = re.compile(
    r"print|input|Console|rich\.print"
    r"|click\.(echo|secho|style|echo_via_pager|confirm|prompt|progressbar|pause)"
    r"|sys\.__?std\w+|sys\.std(out|err)\.(write|writelines|buffer)|writing\.write|getpass\.getpass"
    r"|(\w+\.)*console\.\w+|os\.write|logging\.(basicConfig|StreamHandler|lastResort)|traceback\.print_\w+"
)


def test_everything_that_is_shown_passes_one_place() -> None:
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        if not name.startswith("nemodeploy/sandbox/"):  # what it shows, it is given a `say` for
            for sink in _sinks(ast.parse(path.read_text())):
                found.setdefault(name, set()).add(sink)
    assert {name: sinks - {"self.console.width"} for name, sinks in found.items()} == SINKS


def _sinks(tree: ast.AST) -> set[str]:
    """What is named anywhere, called or not, and imported by its name."""
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            named |= {f"{node.module}.{one.name}" for one in node.names}
    return set(filter(SINK.fullmatch, named))


@pytest.mark.parametrize(
    "line",
    [
        "click.echo(x)",
        "out = click.echo",
        "from click import secho",
        "print(x)",
        "sys.stdout.write(x)",
        "sys.stderr.buffer.write(x)",
        "sys.__stderr__.write(x)",
        "Console().print(x)",
        "self.console.print(x)",
        "click.confirm(x)",
        "logging.basicConfig()",
        "traceback.print_exc()",
        "os.write(1, x)",
    ],
)
def test_the_search_for_sinks_sees_them(line: str) -> None:
    assert _sinks(ast.parse(line))


def test_no_mocks() -> None:
    for path in ROOT.glob("tests/**/*.py"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not any("mock" in ast.unparse(node) for node in imports), path

"""Lean imports, and the rules of the house that a syntax tree can show."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scoresde"
MODULES = sorted(PACKAGE.rglob("*.py"))

HEAVY = frozenset(
    {
        "accelerate",
        "datasets",
        "diffusers",
        "matplotlib",
        "ot",
        "pandas",
        "PIL",
        "pyarrow",
        "safetensors",
        "scipy",
        "sklearn",
        "torchmetrics",
        "onnx",
        "onnxruntime",
        "tensorboard",
        "torchsde",
        "torchvision",
        "tqdm",
        "jinja2",
        "tyro",
    }
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=environment,
        text=True,
    )


def modules_of(statement: str) -> set[str]:
    """All modules that are loaded after a statement in a fresh interpreter."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(python("-c", code).stdout))


def loaded_by(statement: str) -> set[str]:
    """The same, by the first part of their names."""
    return {name.partition(".")[0] for name in modules_of(statement)}


CORE = "from scoresde import Preconditioned, ReverseSampler, VPSDE, dsm_loss"


def test_the_package_loads_its_modules_when_their_names_are_used() -> None:
    assert loaded_by("import scoresde") & {"torch", "numpy", *HEAVY} == set()
    code = "import scoresde; print(scoresde.sde.VPSDE is scoresde.VPSDE, hasattr(scoresde, 'no'))"
    assert python("-c", code).stdout.split() == ["True", "False"]


def test_the_core_loads_torch_and_nothing_heavier() -> None:
    assert HEAVY & (loaded_by(f"import torch; {CORE}") - loaded_by("import torch")) == set()


# What a sampler and a loss have no use for.
UNUSED = {"cli", "comparison", "data", "ddpm", "doctor", "export", "fokker_planck", "likelihood"}
UNUSED |= {"metrics", "nets", "plot", "training"}
MOST = 46  # modules of the package; each costs about two milliseconds


def test_the_core_loads_few_modules_and_no_room_that_it_does_not_use() -> None:
    """A count in place of a time, which would depend on the machine and on what else it does."""
    new = modules_of(f"import torch; {CORE}") - modules_of("import torch")
    ours = {name for name in new if name.split(".")[0] == "scoresde"}
    others = {name.split(".")[0] for name in new - ours}
    assert others <= sys.stdlib_module_names
    assert UNUSED & {name.split(".")[1] for name in ours if "." in name} == set()
    # a new scheme is a file, which this limit is not to stop
    rooms = {name for name in ours if not name.startswith("scoresde.solvers.")}
    assert len(rooms) <= MOST, f"the core loads {len(rooms)} modules beside the solvers"


def test_public_names_are_documented() -> None:
    import scoresde

    def documented(thing: object) -> bool:
        text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        # A dataclass without a docstring makes its own: Name(field: type, ...).
        return bool(text) and not text.startswith(f"{getattr(thing, '__name__', '')}(")

    things = {name: getattr(scoresde, name) for name in scoresde.__all__}
    documentable = {
        name: thing
        for name, thing in things.items()
        if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)
    }
    assert [name for name, thing in documentable.items() if not documented(thing)] == []


# The rules of the house. Each reads one module's syntax tree and yields (line, complaint).

# Not randint: a sampler without a seed draws one, so that torch.manual_seed rules it.
BARE_DRAWS = frozenset(
    {
        "bernoulli",
        "multinomial",
        "normal",
        "poisson",
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "randperm",
    }
)
IN_PLACE_DRAWS = frozenset({"bernoulli_", "exponential_", "normal_", "random_", "uniform_"})
# nets: initial weights. Elsewhere a draw names its generator.
MAY_DRAW = ("noise", "losses", "data", "nets")


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        name = getattr(node, "name", "")
        if name.startswith("_") and not name.startswith("__"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def swallowed_keywords(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in public_functions(tree.body):
        # What __new__ is given goes to __init__ too, which refuses a typo; a network takes
        # conditions by name, which its Conditioner checks.
        names = node.args.kwarg and (node.name, node.args.kwarg.arg)
        if names and node.name != "__new__" and names != ("forward", "cond"):
            yield node.lineno, f"public {node.name} takes **{node.args.kwarg.arg}"


def bare_asserts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert: raise ValueError or TypeError, with the remedy"


def late_all(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            break
    yield 1, "no __all__ at the top"


def bare_draws(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            for alias in node.names:
                if alias.name in BARE_DRAWS:
                    yield node.lineno, f"imports {alias.name} from torch"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            seeded = any(keyword.arg == "generator" for keyword in node.keywords)
            if (owner == "torch" and name in BARE_DRAWS) or name in IN_PLACE_DRAWS:
                if not seeded:
                    yield node.lineno, f"{owner}.{name} without generator="
            elif owner in ("np.random", "numpy.random") and not (
                name == "default_rng" and node.args
            ):
                yield node.lineno, f"{owner}.{name} without a seed"


def fixed_rank(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """x[:, None, None, None] and x.view(-1, 1, 1, 1): broadcasting lives in _tensor.py."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            text = ast.unparse(node.slice).strip("()").replace(" ", "")
            if text == ":,None,None,None":
                yield node.lineno, f"[{text}]: use expand"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            sizes = [ast.unparse(size) for size in node.args]
            if node.func.attr in ("view", "reshape") and sizes == ["-1", "1", "1", "1"]:
                yield node.lineno, f".{node.func.attr}(-1, 1, 1, 1): use expand"


def parameters(node: ast.AST) -> list[str] | None:
    """The arguments of a function or of a class, whose fields they are without an __init__."""
    if isinstance(node, ast.ClassDef):
        made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if made:
            return parameters(made[0])
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        plain = [n for n in fields if not re.search(r"ClassVar|init=False", ast.unparse(n))]
        names = [n.target.id for n in plain if isinstance(n.target, ast.Name)]
        own = all(ast.unparse(base) in ("ABC", "nn.Module", "Protocol") for base in node.bases)
        return names if own or names else None  # else they are inherited
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        given = node.args
        many = [given.vararg] if given.vararg else []
        return [a.arg for a in (*given.posonlyargs, *given.args, *many, *given.kwonlyargs)]
    return None


def unlike_arguments(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """An Args section names every argument and nothing else; "a, b: ..." describes two.

    pydoclint and ruff's D417 know neither such entries nor the fields of a dataclass as the
    arguments of its class: of 112 and 40 findings that they have here, a handful are real. A
    section may leave the rest to another function: "the others: as of `log_prob`."
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        section = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{ast.get_docstring(node)}\n", re.M)
        takes = parameters(node)
        if section is None or takes is None:
            continue
        entries = re.findall(r"^    ([\w*][^:`]*):(?:\s|$)", section[1], re.MULTILINE)
        named = [name.strip(" *") for entry in entries for name in entry.split(",")]
        expected = [name for name in takes if name not in ("self", "cls") and name[0] != "_"]
        extra = [name for name in named if name not in takes and name != "the others"]
        missing = [] if "the others" in named else [n for n in expected if n not in named]
        for words, names in (("does not take", extra), ("does not describe", missing)):
            if names:
                yield node.lineno, f"Args of {node.name}: it {words} {', '.join(names)}"


RULES = (
    swallowed_keywords,
    bare_asserts,
    late_all,
    bare_draws,
    fixed_rank,
    unlike_arguments,
)


def faults(source: str, module: str) -> list[str]:
    """What breaks a rule in ``source``, which stands in the package at path ``module``."""
    tree = ast.parse(source)
    return [
        f"scoresde/{module}:{line}: {complaint}"
        for rule in RULES
        if not (rule is bare_draws and module.split("/")[0] in MAY_DRAW)
        for line, complaint in rule(tree)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rules_of_the_house(path: Path) -> None:
    assert faults(path.read_text(), path.relative_to(PACKAGE).as_posix()) == []


def documented(head: str, entry: str) -> str:
    """A function or class whose docstring has an Args section of one entry."""
    first, _, rest = head.partition("\n")
    return f'{first}\n    """What.\n\n    Args:\n        {entry}\n    """\n{rest}'


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f(x, **kwargs): ...", "public f takes **kwargs"),
        ("class A:\n    def f(self, **extra): ...", "public f takes **extra"),
        ("class A:\n    def __init__(self, **kwargs): ...", "public __init__ takes **kwargs"),
        ("def f(x):\n    assert x > 0", "assert"),
        ("x = torch.randn(3)", "torch.randn without"),
        ("x = torch.rand(3, device=d)", "torch.rand without"),
        ("x = torch.randn_like(x)", "torch.randn_like without"),
        ("from torch import randn_like", "imports randn_like"),
        ("x.normal_()", "x.normal_ without"),
        ("rng = np.random.default_rng()", "without a seed"),
        ("x = np.random.randn(3)", "without a seed"),
        ("y = x[:, None, None, None]", "use expand"),
        ("y = x.view(-1, 1, 1, 1)", "use expand"),
        (documented("def f(a, b):", "a: one."), "does not describe b"),
        (documented("def f(a):", "a, c: two."), "does not take c"),
        (documented("class A:\n    a: int", "a, b: two."), "not take b"),
    ],
)
def test_a_planted_fault_is_seen(source: str, complaint: str) -> None:
    (fault,) = faults(f"__all__ = []\n{source}", "sde.py")
    assert complaint in fault


@pytest.mark.parametrize("source", ["", "def f(): ...\n\n__all__ = ['f']"])
def test_a_missing_or_late_all_is_seen(source: str) -> None:
    assert faults(source, "sde.py") == ["scoresde/sde.py:1: no __all__ at the top"]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("def _f(**kwargs): ...", "sde.py"),
        ("def f(g):\n    def inner(**kwargs): ...", "sde.py"),
        ("class _A:\n    def f(self, **kwargs): ...", "sde.py"),
        ("x = torch.randn(3, generator=generator)", "analytic.py"),
        ("rng = np.random.default_rng(seed)", "metrics.py"),
        ("x = torch.randn_like(x)", "losses/dsm.py"),
        ("x = torch.randn(3)", "data/toys.py"),
        ("y = x[:, :, None, None]", "nets/unet.py"),
        (documented("def f(self, a, b):", "a, b: two, of which a: is one."), "sde.py"),
        (documented("class A(B):\n    a: ClassVar[int]", "b: of the base."), "sde.py"),
        (documented("def f(a, b, c):", "a: one.\n        the others: as of `g`."), "sde.py"),
    ],
)
def test_what_is_allowed_passes(source: str, module: str) -> None:
    assert faults(f"__all__: list[str] = []\n{source}", module) == []


def test_no_test_file_is_longer_than_one_reads() -> None:
    long = {
        path.name: count
        for path in (ROOT / "tests").rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 700
    }
    assert long == {}


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
    kinds = {".cfg", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ""}
    folders = ("scoresde", "tests", "examples", "benchmarks", "docs", ".ci", ".github")
    files = [path for path in ROOT.glob("*") if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path.suffix in kinds
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if marks.search(line)
    ]
    assert hits == []

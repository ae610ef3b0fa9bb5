"""Public signatures say what is in a dictionary: only edges of JSON may leave it open."""

import ast
from collections.abc import Iterator
from pathlib import Path

import weibotag

ROOT = Path(weibotag.__file__).parent
OPEN = ("dict[str, Any]", "Mapping[str, Any]")
# What reads and writes JSON, and the parts of model.json that learners and stages say of themselves.
EDGES = {
    "core/own_files.py write_tensors",
    "posts/encodings.py parse_object",
    "taggers/model_folder.py TaggerAbout.training",
    "taggers/model_folder.py ModelLearnt.cascade",
    "taggers/model_folder.py ModelAbout.stages",
    "taggers/model_folder.py ModelAbout.media",
    "taggers/model_folder.py ModelAbout.pictures",
    "training/cascade_tagger.py describe_cascade",
    # A row of an Arrow table: its schema has the types.
    "vision/stage.py Row",
}


def find_signatures(body: list[ast.stmt], where: str = "") -> Iterator[tuple[str, str]]:
    """Give the public names of a module and of its classes, with what their signatures and annotations say."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name, args=args, returns=returns):
                said = [ast.unparse(args), "" if returns is None else ast.unparse(returns)]
            case ast.ClassDef(name=name):
                said = [ast.unparse(base) for base in node.bases]
                if not name.startswith("_"):
                    yield from find_signatures(node.body, f"{where}{name}.")
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                said = [ast.unparse(annotation)]
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() as alias):
                said = [ast.unparse(alias)]
            case _:
                continue
        if not name.startswith("_") or name == "__init__":
            yield where + name, " ".join(said)


def find_open(text: str) -> list[str]:
    return [name for name, said in find_signatures(ast.parse(text).body) if any(kind in said for kind in OPEN)]


def test_no_public_signature_leaves_open_what_a_dictionary_holds() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    found = {f"{path} {name}" for path, text in texts.items() for name in find_open(text)}
    assert found <= EDGES, f"give these a TypedDict or a dataclass: {sorted(found - EDGES)}"


def test_arguments_fields_answers_and_aliases_are_found_and_what_is_private_is_not() -> None:
    text = """
Row = Mapping[str, Any]
def ask(of: dict[str, Any], to: int) -> None: ...
def answer() -> list[dict[str, Any]]: ...
def _own(of: dict[str, Any]) -> None: ...
class Made(TypedDict):
    parts: dict[str, Any]
    number: int
    def say(self) -> Mapping[str, Any]: ...
class _Hidden:
    parts: dict[str, Any]
"""
    assert find_open(text) == ["Row", "ask", "answer", "Made.parts", "Made.say"]

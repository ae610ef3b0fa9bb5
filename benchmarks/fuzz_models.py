"""Alter files that weibotag wrote, mend their digests, and use them: a documented exit code and a line, whatever they say.

Models of all taggers, a plan, a gallery, codes, a map, a feature dictionary, a body and stopped runs are made once, small.
Each input is a copy of one of them with a file altered: its bytes, a value of its JSON, a column, an array. Commands run in
forks of one process that has imported everything, so that hundreds take minutes.

    python benchmarks/fuzz_models.py --count 100
    python benchmarks/fuzz_models.py --kind plan --seed 17 --count 1
"""

import atexit
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import Outcome, Trial, faults, main, mutated, run_warm
from safetensors import safe_open

SECONDS, MEGABYTES = 60.0, 3_000.0
NASTY = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5_000,
    "../../x",
    [],
    {},
    [[]],
    "\0",
)
TYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "uint32")
WORDS = {"a": ["口红", "唇釉", "粉底"], "b": ["手机", "相机", "iphone"], "c": ["火锅", "烧烤", "奶茶"]}
TREE = "id,parent_id,name,aliases,keywords\n美妆,,美妆,,\na,美妆,唇妆,,口红\nb,,数码,,手机\nc,,美食,,火锅\n"
FEW = 30


def interrupt(module: str, holder: str | None, name: str) -> Callable[[], None]:
    """Return what makes a function of a module, or of a class in it, stop the run as Ctrl-C does."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def patch() -> None:
        place = __import__(module, fromlist=["_"])
        setattr(place if holder is None else getattr(place, holder), name, stop)

    return patch


class Home:
    """A small one of everything, in a temporary folder that goes with this process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-models-"))
        atexit.register(self._remove, os.getpid())
        self.store = ("--store", self.folder / "store", "-q")
        self.write_posts()
        posts, fresh = self.folder / "p.csv", ("--words", "object=seen", "-p", self.folder / "p.toml", *self.store)
        train = ("train", posts, "-t", self.folder / "t.csv", *fresh, "--tune-seconds", "0")
        for tagger in ("xmc", "average"):
            self.do(*train, "--tagger", tagger, "-o", tagger)
        self.do(*train, "--tagger", "cascade", "--minutes", "0.1", "-o", "cascade", "--task", "mood=kind")
        self.train = train
        self.do("plan", posts, "-m", "cascade", "-o", "plan.json", *self.store)
        self.do("codes", "fit", "v.parquet", "-o", "codes.safetensors", "--levels", "2", "--size", "4", "-q")
        self.do("keywords", "map", "train", posts, "--words", "object=seen", "-o", "map", "-q")
        self.do("tag", "few.csv", "-m", "average", "-o", "tags.parquet", *self.store)
        self.do("keywords", "export", "tags.parquet", "-o", "x.libsvm", "--dictionary", "d.parquet", "-q")
        self.do("pretrain", posts, "-o", "body", "--network", "vl-bert", "--epochs", "1", *fresh[2:])
        self.gallery()
        self.do(
            "tag",
            "few.csv",
            "-m",
            "average",
            "-o",
            "again.csv",
            *self.store,
            stop=("weibotag.workflows.tag", None, "write_output"),
        )
        network = (*train, "--tagger", "concat", "--minutes", "0.02", "-o", "learnt")
        self.do(*network, stop=("weibotag.training.network.loop", "TrainingLoop", "_write_losses"))

    def _remove(self, owner: int) -> None:
        if os.getpid() == owner:
            shutil.rmtree(self.folder, ignore_errors=True)

    def do(self, *arguments: str | Path, stop: tuple[str, str | None, str] | None = None) -> None:
        """Run a command that must do, or must be interrupted."""
        done = run_warm(arguments, self.folder, 10 * SECONDS, interrupt(*stop) if stop else None)
        if (done.code == 0) == (stop is not None):
            raise SystemExit(f"{' '.join(map(str, arguments))}: exit code {done.code}: {done.stderr}")

    def write_posts(self) -> None:
        """Write posts, a few of them, their pictures, a tag tree, a pipeline and vectors."""
        from PIL import Image

        draw, folder = random.Random(0), self.folder
        (folder / "t.csv").write_text(TREE, encoding="utf-8")
        (folder / "p.toml").write_text('stages = ["embed"]\n')
        rows = ["post_id,text,images,author,channel,tags,keywords,seen,kind"]
        for number in range(240):
            tag = draw.choice("abc")
            colour = (255 * (tag == "a"), 255 * (tag == "b"), number % 40)
            picture = f"{number % 40}{tag}.png"
            Image.new("RGB", (48, 48), colour).save(folder / picture)
            word = draw.choice(WORDS[tag])
            said = f"{number},{' '.join(draw.choices(WORDS[tag], k=3))},{picture},u{number % 5},ch,{tag},{word},{word},{tag}"
            rows.append(said)
        (folder / "p.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (folder / "few.csv").write_text("\n".join(rows[: FEW + 1]) + "\n", encoding="utf-8")
        values = np.random.default_rng(0).normal(size=(240, 8)).astype(np.float32)
        vectors = pa.array(list(values), pa.list_(pa.float32()))
        pq.write_table(
            pa.table({"post_id": [str(one) for one in range(240)], "embed_vector": vectors}), folder / "v.parquet"
        )

    def gallery(self) -> None:
        """Write a gallery of faces that nobody has."""
        from weibotag.vision.face_gallery import make_gallery, unit

        faces = unit(np.random.default_rng(0).normal(size=(12, 16)))
        make_gallery([f"名{one % 4}" for one in range(12)], faces, "face.onnx", "0" * 64).save(self.folder / "g.gallery")


def change(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one value in it altered, gone, doubled or of another kind."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        rest = {name: one for name, one in value.items() if name != key}
        match chance.randrange(12):
            case 0:
                return rest
            case 1:
                return rest | {f"{key}x": value[key]}
            case 2:
                return value | {"more": chance.choice(NASTY)}
        return rest | {key: change(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], *([change(value[place], chance)] * chance.choice((0, 1, 1, 2))), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return chance.choice((-value, value * 1_000, value + 1, value / 3))
    return chance.choice(NASTY)


def change_array(array: np.ndarray, chance: random.Random) -> np.ndarray:
    """Return an array with other numbers, another shape or another type."""
    array = array.copy()
    match chance.randrange(6):
        case 0 if array.size:
            array = array[: chance.randrange(len(array) + 1)] if array.ndim else array
        case 1 if array.ndim:
            array = np.concatenate([array, array[:1]])
        case 2:
            array = array.astype(chance.choice(TYPES))
        case 3:
            array = array.reshape(chance.choice(((-1,), (1, *array.shape), (*array.shape, 1), array.shape[::-1])))
        case _:
            if array.size:
                wild = (-1, 0, 1, len(array), 2**15, 2**31 - 1, -(2**31), float("nan"), float("inf"), 1e30)
                with np.errstate(all="ignore"):
                    places = [chance.randrange(array.size) for _ in range(chance.choice((1, 1, 5, array.size)))]
                    array.reshape(-1)[places] = np.array(chance.choice(wild)).astype(array.dtype)
    return array


def alter(path: Path, chance: random.Random) -> None:
    """Alter a file by its kind; one time in four its bytes, whatever it is."""
    kind = path.suffix if chance.random() < 0.75 else ""
    if kind == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_bytes()), chance)), encoding="utf-8", errors="replace")
    elif kind in (".safetensors", ".gallery"):
        alter_tensors(path, chance)
    elif kind == ".parquet":
        table = pq.read_table(path)
        name = chance.choice(table.column_names)
        values = table[name].to_pylist()
        if values and chance.random() < 0.7:
            values[chance.randrange(len(values))] = None if chance.random() < 0.5 else values[0]
        column = pa.array(values, table[name].type) if chance.random() < 0.7 else pa.array([str(one) for one in values])
        table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table.slice(0, chance.choice((len(table), 1, 0))), path)
    else:
        data = path.read_bytes()
        head = chance.choice((len(data), 200, 2_000))
        path.write_bytes(mutated(data[:head], chance) + data[head:])


def alter_tensors(path: Path, chance: random.Random) -> None:
    """Alter an array of a file, or what it says of them; the digest among that is mended."""
    from weibotag.core.own_files import write_tensors

    with safe_open(path, "numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    name = chance.choice(sorted(arrays))
    about = [(key, json.loads(said)) for key, said in metadata.items()]
    if about and chance.random() < 0.4:
        changed = change(about[0][1], chance)
        about = [(about[0][0], changed if isinstance(changed, dict) else {"x": changed})]
    elif chance.random() < 0.1:
        del arrays[name]
    else:
        arrays[name] = change_array(arrays[name], chance)
    write_tensors(path, arrays, about[0] if about else None)


def mend(folder: Path) -> None:
    """Write digests of a folder's files, and of a taxonomy, into the JSON that has them, where these can be read."""
    from weibotag.core.own_files import list_digests
    from weibotag.taxonomy.tree import load

    for path in (folder / name for name in ("model.json", "body.json", "match.json")):
        try:
            about = json.loads(path.read_bytes())
            about["files"] = {name: found for name, found in list_digests(folder).items() if not name.endswith(path.name)}
            about["taxonomy"] = load(folder / "taxonomy.csv").digest if path.name == "model.json" else None
            path.write_text(json.dumps(about), encoding="utf-8")
        except Exception:  # noqa: BLE001 - what can't be read has no digests to mend
            continue


def of_folder(name: str, *commands: tuple[str | Path, ...]) -> Trial:
    """Return the trial of a folder or file of `Home`: copied as "own" (with its ending), altered, mended, and used."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        source = home.folder / name
        own = folder / f"own{source.suffix}"
        if source.is_dir():
            shutil.copytree(source, own)
            files = sorted(path for path in own.rglob("*") if path.is_file() and path.name != "lock")
            alter(chance.choice(files), chance)
            mend(own)
        else:
            shutil.copyfile(source, own)
            alter(own, chance)
        if name in ("again.csv.run", "learnt.run"):
            own.rename(folder / name)
        for picture in home.folder.glob("*.png"):
            (folder / picture.name).hardlink_to(picture)
        for one in ("few.csv", "p.csv"):
            shutil.copyfile(home.folder / one, folder / one)
        done = run_warm(chance.choice(commands), folder)
        found = list(faults(done, SECONDS, MEGABYTES))
        out = folder / "out.csv"
        if done.code == 0 and out.exists() and out.read_bytes().count(b"\n") != FEW + 1:
            found.append(f"{FEW} posts in, others out")
        if found:
            print(done.stderr[-300:])
        return done, found

    return trial


def import_all() -> None:
    """Import what commands import late, once for all forks."""
    import duckdb
    import fasttext
    import onnxruntime
    import pandas
    import sklearn.svm
    import torch

    import weibotag.cli.main
    import weibotag.training.network.fit
    import weibotag.workflows.plan
    import weibotag.workflows.tag

    assert all((duckdb, fasttext, onnxruntime, pandas, sklearn, torch, weibotag))


def list_kinds() -> dict[str, Trial]:
    """Return the trials by name."""
    tag = ("tag", "few.csv", "-o", "out.csv", *home.store)
    start = (*home.train, "--tagger", "vl-bert", "--minutes", "0.001", "--start", "own", "-o", "m")
    routes = [(*tag, "-m", "own", "--route", route) for route in ("cascade", "fused", "text")]
    cascade = (*tag, "-m", home.folder / "cascade", "--plan", "own.json")
    apply = ("codes", "apply", home.folder / "v.parquet", "-m", "own.safetensors", "-o", "c.parquet", "-q")
    map_ = ("keywords", "map", "few.csv", "--words", "object=seen", "-m", "own", "-o", "k.csv", "-q")
    gallery = [("faces", "gallery", *asked) for asked in (("remove", "own.gallery", "名1"), ("show", "own.gallery"))]
    export = ("keywords", "export", home.folder / "tags.parquet", "-o", "x.libsvm", "--dictionary", "own.parquet", "-q")
    again = ("tag", "few.csv", "-m", home.folder / "average", "-o", "again.csv", *home.store)
    return {
        "xmc": of_folder("xmc", (*tag, "-m", "own")),
        "average": of_folder("average", (*tag, "-m", "own")),
        "cascade": of_folder("cascade", *routes, ("plan", "few.csv", "-m", "own", "-o", "plan.json", *home.store)),
        "plan": of_folder("plan.json", cascade),
        "codes": of_folder("codes.safetensors", apply),
        "map": of_folder("map", map_),
        "gallery": of_folder("g.gallery", *gallery),
        "dictionary": of_folder("d.parquet", export),
        "body": of_folder("body", start, ("similarity", "few.csv", "-m", "own", "-o", "s.csv", *home.store)),
        "run": of_folder("again.csv.run", again),
        "checkpoint": of_folder("learnt.run", (*home.train, "--tagger", "concat", "--minutes", "0.02", "-o", "learnt")),
    }


if __name__ == "__main__":
    import_all()
    home = Home()
    main(list_kinds(), __doc__)

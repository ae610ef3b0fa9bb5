"""Language models that read the text for a network: frozen, trained with it, or by low-rank additions."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ask, slow_but
from fused_posts import ROOT, TREE, are_right, ask_onnx, build, draw_posts, place, quick, rows_of, table_of
from fused_posts import ask_torch as answer

from weibotag.features.post_batches import Features

torch = pytest.importorskip("torch", reason="networks are trained with torch")
transformers = pytest.importorskip("transformers", reason="reads language models")

HOWS = ("frozen", "full", "lora")
TABLE = "embeddings.word_embeddings.weight"
BLOCKED = ("torch", "transformers", "peft")


def draw_texts(count: int, seed: int) -> Any:
    """Return posts of whose tags the text tells."""
    posts = draw_posts(4 * count, seed)
    return posts.take(list(range(1, len(posts), 4)))


def teach(encoder: Path, how: str, folder: Path, posts: int = 150, **others: Any) -> Features:
    """Train a network over an encoder in a folder; return its features."""
    from weibotag.training.dataset import NetworkOptions
    from weibotag.training.network.fit import train_fused

    sides = rows_of(draw_texts(posts, seed=1)), rows_of(draw_texts(40, seed=2))
    recipe = NetworkOptions("vl-bert", encoder=str(encoder), encoder_training=how)
    train_fused(*sides, TREE, recipe, quick(**others), place(folder))
    return Features.load(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, and a vocabulary of some characters and a word."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "cat",
        "##s",
        *dict.fromkeys("爱了家里的猫狗很可新到货这是东西方，好啊吧"),
    )
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.BertConfig(**sizes, vocab_size=len(vocabulary), initializer_range=0.3)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_states_of_a_language_model_stand_at_the_characters_of_their_tokens(bert: Path, tmp_path: Path) -> None:
    from weibotag.training.network.loop import to_tensors

    table = table_of([{"text": "狗 cats好"}, {"text": ""}, {"text": "新到"}])
    features = Features.learn([table], str(bert))
    features.save(tmp_path)
    features = Features.load(tmp_path)
    batch = features.encode(table).batch(np.arange(3))
    assert batch["token_of"].tolist()[0] == [2, 0, 3, 3, 3, 4, 5]
    assert (batch["tokens"] > 0).sum(axis=1).tolist() == [6, 2, 4]
    module, _ = build("vl-bert", table, str(bert))
    model = transformers.AutoModel.from_pretrained(bert).eval()
    with torch.inference_mode():
        expected = model(
            **transformers.AutoTokenizer.from_pretrained(bert)("狗 cats好", return_tensors="pt")
        ).last_hidden_state
        found = module.encoder(*(to_tensors(batch, torch.device("cpu"))[name] for name in ("tokens", "token_of")))
        torch.testing.assert_close(found[0, [0, 2, 5, 6]], module.encoder.project(expected[0, [1, 2, 3, 4]]))
    assert not found[0, 1].any() and not found[1].any()


@pytest.mark.parametrize("how", slow_but(["lora"], HOWS))
def test_an_encoder_is_trained_as_asked_and_its_weights_travel_with_the_network(
    bert: Path, tmp_path: Path, how: str
) -> None:
    from safetensors.torch import load_file

    if how == "lora":
        pytest.importorskip("peft", reason="adds low-rank matrices")
    encoder, work = tmp_path / "encoder", tmp_path / "work"
    shutil.copytree(bert, encoder)
    features = teach(encoder, how, work)
    with (work / "losses.csv").open(encoding="utf-8") as file:
        losses = [float(row["tags"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.3 * losses[0]
    base = load_file(encoder / "model.safetensors")
    shape = {"dropout": 0.1, "buckets": 2**12, "encoder_training": how}
    module, _ = build("vl-bert", draw_texts(150, seed=1), str(encoder), **shape)
    module.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True)["best"])
    fresh = draw_texts(50, seed=3)
    batch = features.encode(fresh).batch(np.arange(len(fresh)))
    expected = answer(module, batch)["tags"]
    module.encoder.merge()
    own = module.encoder.model.state_dict()
    changed = {name for name in base if not torch.allclose(own[name], base[name], atol=1e-5)}
    assert (TABLE in changed) == (how == "full")
    assert any(name.endswith("query.weight") for name in changed) == (how != "frozen")
    # What was exported holds the weights as they became, and asks for the encoder's folder no more.
    shutil.rmtree(encoder)
    np.testing.assert_allclose(ask_onnx(work / "network.onnx", batch)["tags"], expected, atol=1e-3)
    assert are_right(work, fresh).mean() > 0.9


@pytest.mark.parametrize("how", slow_but(["lora"], ("full", "lora")))
def test_a_training_that_was_stopped_goes_on_to_the_same_encoder(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from safetensors.torch import load_file

    from weibotag.training.network.loop import TrainingLoop

    if how == "lora":
        pytest.importorskip("peft", reason="adds low-rank matrices")
    few: dict[str, Any] = {"posts": 40, "epochs": 4, "dropout": 0.3}
    teach(bert, how, tmp_path / "whole", **few)
    save = TrainingLoop.save

    def save_and_stop(loop: TrainingLoop, path: Path, digest: str) -> None:
        save(loop, path, digest)
        if loop.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoop, "save", save_and_stop)
        teach(bert, how, tmp_path / "stopped", **few)
    teach(bert, how, tmp_path / "stopped", **few)
    first, second = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped"))
    for part in ("network", "best"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    # Another way to train is another training: it does not go on from these weights.
    teach(bert, "frozen", tmp_path / "stopped", **few | {"epochs": 1})
    fresh = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["network"]
    assert torch.equal(fresh[f"encoder.model.{TABLE}"], load_file(bert / "model.safetensors")[TABLE])


@pytest.mark.parametrize("network", ("concat", "hma", "sm-lstm", "two-stream"))
def test_every_network_reads_by_an_encoder(bert: Path, tmp_path: Path, network: str) -> None:
    from weibotag.training.network.export import export

    module, posts = build(network, draw_posts(20, seed=4), str(bert))
    batch = posts.batch(np.arange(12))
    plain = answer(module, batch)["tags"]
    other = answer(module, batch | {"tokens": np.where(batch["tokens"] > 0, 7, 0)})["tags"]
    assert np.abs(plain - other).max() > 1e-4
    np.testing.assert_array_equal(plain, answer(module, batch | {"text": np.minimum(batch["text"], 1)})["tags"])
    export(module, posts, tmp_path / "network.onnx")
    np.testing.assert_allclose(ask_onnx(tmp_path / "network.onnx", batch)["tags"], plain, atol=1e-3)


def write_world(folder: Path) -> tuple[str, ...]:
    """Write posts and a tree; return a command that trains a fused tagger on them."""
    rows = [f"{at},家里的{'猫狗'[at % 2]}很可爱{'啊吧好'[at % 3]},{('cat', 'dog')[at % 2]}" for at in range(240)]
    (folder / "posts.csv").write_text("\n".join(["post_id,text,tags", *rows]) + "\n", encoding="utf-8")
    (folder / "tree.csv").write_text("id,parent_id,name\npet,,宠物\ncat,pet,喵\ndog,pet,汪\n", encoding="utf-8")
    base = ("train", str(folder / "posts.csv"), "-t", str(folder / "tree.csv"), "-o", str(folder / "model"))
    return (*base, "--store", str(folder / "store"), "--tagger", "fused", "--tune-seconds", "0", "-q")


TAG = """
import sys
sys.modules |= dict.fromkeys(sys.argv.pop(1).split(","))
from weibotag.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_model_with_a_trained_encoder_tags_without_torch_or_the_encoder(bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adds low-rank matrices")
    encoder = tmp_path / "encoder"
    shutil.copytree(bert, encoder)
    train = write_world(tmp_path)
    done = ask(*train, "--encoder", str(encoder), "--encoder-training", "lora", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["taggers"]["fused"]["training"]["fused"]["encoder_training"] == "lora"
    shutil.rmtree(encoder)
    out = tmp_path / "out.parquet"
    words = ("tag", str(tmp_path / "posts.csv"), "-m", str(tmp_path / "model"), "-o", str(out), "-q")
    command = [sys.executable, "-c", TAG, ",".join(BLOCKED), *words, "--store", str(tmp_path / "store")]
    tagged = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert tagged.returncode == 0, tagged.stderr
    told = pq.read_table(out).to_pylist()
    assert {row["route"] for row in told} == {"fused"}
    right = [("cat", "dog")[at % 2] in [tag["id"] for tag in row["tags"]] for at, row in enumerate(told)]
    assert np.mean(right) > 0.9


def test_what_an_encoder_can_not_do_is_said_in_one_line(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weibotag.training.network import settings

    train = write_world(tmp_path)
    found = settings.find_spec
    monkeypatch.setattr(settings, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    (tmp_path / "body").mkdir()
    for options, said in (
        (("--encoder", str(bert), "--encoder-training", "lora"), "needs: pip install 'weibotag[hf]'"),
        (("--encoder-training", "full"), "give --encoder"),
        (("--encoder", str(bert), "--start", str(tmp_path / "body")), "--encoder does not go with --start"),
        (("--encoder", str(tmp_path / "absent")), "absent"),
    ):
        answered = ask(*train, *options)
        assert answered.exit_code == 2, answered.output
        lines = (str(answered.exception) + answered.output).strip()
        assert said.lower() in lines.lower()
        assert not (tmp_path / "model").exists()

"""The step of a cascade that reads what texts mean."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ask

TREE = (
    "id,parent_id,name,aliases,keywords\nfood,,美食,,\ntea,food,茶,,\nmilk,food,牛奶,,\n"
    "pet,,宠物,,\ncat,pet,猫,,\ndog,pet,狗,,\n"
)


@pytest.mark.slow
def test_texts_are_read_where_that_pays(folder: Path) -> None:
    pytest.importorskip("torch", reason="training a network needs the extra torch")
    said = {
        "tea": "泡茶喝 乌龙一壶 龙井清香 普洱回甘 茉莉花香 大红袍 铁观音 碧螺春 毛尖 白毫银针 煮老茶 功夫茶具",
        "milk": "牛奶一杯 酸奶好喝 奶酪吐司 奶油 乳制品 芝士片 喝鲜奶 奶粉冲好 黄油 拿铁加奶 炼乳 奶昔",
        "cat": "小猫睡了 喵星人 布偶好乖 英短掉毛 猫粮 铲屎官 暹罗 橘座 猫砂盆 加菲 逗猫棒 奶猫",
        "dog": "狗在跑 汪星人拆家 金毛下水 柯基屁股 哈士奇 遛狗 泰迪 边牧接飞盘 狗粮 柴犬 拉布拉多 狗绳",
    }
    lines = ["post_id,text,tags,split"]
    for number in range(240):
        tag, split = list(said)[number % 4], "train" if number < 144 else ("valid", "test")[number // 4 % 2]
        # Half of what is held out was never said before.
        place = number // 4 % 9 if split == "train" else 6 + number // 8 % 6
        lines.append(f"{number},{said[tag].split()[place]},{tag},{split}")
    (folder / "said.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tree.csv").write_text(TREE, encoding="utf-8")
    (folder / "pipeline.toml").write_text("stages = []\n", encoding="utf-8")
    words = ("train", "said.csv", "-t", "tree.csv", "-o", "model", "-p", "pipeline.toml", "--tagger", "cascade", "-q")
    assert ask(*words, "--where", "split = 'train'", "--valid", "split = 'valid'", "--tune-seconds", "0").exit_code == 0
    about = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))["cascade"]
    assert about["encodes"]
    assert about["prices"]["encode"] > 0
    assert ask("tag", "said.csv", "-m", "model", "-o", "out.parquet", "--where", "split = 'test'", "-q").exit_code == 0
    assert {"text", "text+encode"} <= set(pq.read_table(folder / "out.parquet")["route"].to_pylist())
    assert ask("plan", "said.csv", "-m", "model", "-o", "plan.json", "--budget", "1h", "-q").exit_code == 0
    assert json.loads((folder / "plan.json").read_text(encoding="utf-8"))["prices"]["encode"] > 0
    assert ask("tag", "said.csv", "-m", "model", "--plan", "plan.json", "-o", "planned.parquet", "-q").exit_code == 0

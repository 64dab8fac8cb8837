"""Write the tables of docs/flags.md and docs/flags_cn.md from utils/peer_flags.py.

python scripts/make_flag_table.py             write them
python scripts/make_flag_table.py --check     fail where a table differs
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from utils.errors import InputError, run_main  # noqa: E402  (needs the path above)
from utils.files import write_text  # noqa: E402
from utils.flags import flag_name  # noqa: E402
from utils.peer_flags import DATA_SETS, NO_EFFECT, PEER_FLAGS, REFUSED, TRAIN, WORKS  # noqa: E402

TABLE = re.compile(r"(?<=<!-- python scripts/make_flag_table.py -->\n).*?(?=<!-- end of table -->)", re.S)
ENGLISH = {"head": ("flag", "of", "command", "answer", "here", "what to know"), "with": "with {}",
           WORKS: WORKS, NO_EFFECT: NO_EFFECT, REFUSED: REFUSED, "training": "training", "asks": "`{}`: as it is",
           "stands": "`{}`: `{}`"}
CHINESE = {"head": ("参数", "来自", "命令", "结果", "这里", "说明"), "with": "仅 {}",
           WORKS: "可用", NO_EFFECT: "不起作用", REFUSED: "拒绝", "training": "训练", "asks": "`{}`：本来如此",
           "stands": "`{}`：`{}`"}
SPELLINGS = ", ".join(f"{typed} = {name}" for typed, name in DATA_SETS.items())
# the reasons in Chinese
REASONS = {
    "without a model: output/weights_BIT.pdparams": "没有给出模型时用 output/weights_BIT.pdparams",
    "everything is restored, the number of the epoch too": "完整恢复训练状态，包括轮次",
    f"spellings of DHN_PyTorch and DJSRH are known: {SPELLINGS}": f"DHN_PyTorch 与 DJSRH 的写法可用：{SPELLINGS}",
    "the data set says how many classes there are": "类别数由数据集给出",
    "-1 and all mean the whole database, as 0 does": "-1 与 all 表示整个数据库，与 0 相同",
    "--resume takes the number of the epoch from the checkpoint": "--resume 从检查点读取轮次",
    "used as given: paddle_hashnet multiplies it by batch size / 64":
        "按给定值使用：paddle_hashnet 会乘以 batch size / 64",
    "SGD, as paddle_hashnet spells it, is momentum; RMSProp has no momentum here":
        "paddle_hashnet 写作 SGD 的即 momentum；这里的 RMSProp 不带动量",
    "the log is train.log in the folder of --output-dir": "日志是 --output-dir 文件夹中的 train.log",
    "an iteration of DHN_PyTorch is a pass over the training set": "DHN_PyTorch 的一次迭代即遍历一遍训练集",
    "true, false, or the number of the GPU": "true、false 或 GPU 编号",
    "weighs the quantisation term only": "只是量化项的权重",
    "a run makes codes of one length; give --bit N and run once for each length":
        "一次运行只产生一种码长；请用 --bit N，每种码长运行一次",
    "the run folder is named after method, data set and length": "运行文件夹按方法、数据集与码长命名",
    "the authors' code of WCH reads alpha nowhere": "WCH 作者的代码没有用到 alpha",
    "the text encoder's rate is given as a multiple of --learning-rate: --text-lr-mult X":
        "文本编码器的学习率以 --learning-rate 的倍数给出：--text-lr-mult X",
    "--log-step N says how often a line is written": "--log-step N 决定多久写一行日志",
    "the speed of training is in the log, memory is not": "日志给出训练速度，不含显存",
    "rank 0 writes the log": "由 0 号进程写日志",
    "16-bit training is --amp bf16 or --amp fp16 here": "这里的 16 位训练是 --amp bf16 或 --amp fp16",
    "the model knows its own picture sizes": "模型自带图像尺寸",
    "in paddle_hashnet it leaves the checkpoint out; a model with random weights is not exported here":
        "在 paddle_hashnet 中它表示不加载检查点；这里不导出随机权重的模型",
    "the graph takes any batch size": "导出的图接受任意 batch size",
    "one picture; predict.py --img takes folders": "一张图像；文件夹请用 predict.py --img",
    "TensorRT is not part of this project; leave it out, or use --mkldnn (float32) or --bf16 on a CPU":
        "本项目不含 TensorRT；请去掉它，或在 CPU 上用 --mkldnn（float32）或 --bf16",
    "fp32, bf16 or auto; an int8 model is a folder of its own (deploy/slim/quantize.py), named by --model-dir; fp16 is "
    "not offered":
        "可选 fp32、bf16 或 auto；int8 模型是另外的文件夹（deploy/slim/quantize.py），用 --model-dir 指定；不提供 fp16",
    "16-bit floats are --bf16 here, on a CPU": "16 位浮点在这里是 CPU 上的 --bf16",
    "a model runs on CPU or GPU": "模型在 CPU 或 GPU 上运行",
    "the graph is always optimised": "图总是经过优化",
    "memory of the GPU is taken as it is needed": "显存按需分配",
    "the benchmark is printed; send the output to a file": "基准测试结果打印在屏幕上；请自行重定向到文件",
}


def row(one, words, reason):
    """The cells of a Row in a language; ``reason``: its ``why`` in that language."""
    names = ", ".join(f"`{name}`" for name in one.names)
    commands = words["training"] if one.commands == TRAIN else ", ".join(f"`{name}`" for name in one.commands)
    if one.methods:
        commands += f" ({words['with'].format(', '.join(one.methods))})"
    notes = [words["stands"].format(value, " ".join(f"{flag_name(key)} {text}" for key, text in settings.items()))
             if settings else words["asks"].format(value) for value, settings in one.values.items()]
    here = f"`{flag_name(one.here)}`" if one.here else ""
    notes += [reason] if reason else []
    return names, ", ".join(one.projects), commands, words[one.answer], here, "; ".join(notes)


def table(words, reasons):
    """The whole table as Markdown; ``reasons``: dict English -> the language, or None."""
    rows = [words["head"], ["--"] * len(words["head"])]
    rows += [row(one, words, one.why if reasons is None else reasons[one.why] if one.why else "")
             for one in PEER_FLAGS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


def main(argv):
    """Run a command line."""
    if argv not in ([], ["--check"]):
        raise InputError(f"unknown argument {' '.join(argv)}; the only one is --check")
    missing = sorted({one.why for one in PEER_FLAGS} - {"", *REASONS})
    if missing:
        raise InputError(f"REASONS in scripts/make_flag_table.py lacks the Chinese of: {missing[0]}")
    for name, words, reasons in (("flags.md", ENGLISH, None), ("flags_cn.md", CHINESE, REASONS)):
        path = os.path.join(ROOT, "docs", name)
        with open(path, encoding="utf-8") as file:
            old = file.read()
        new = TABLE.sub(lambda _, text=table(words, reasons): text, old, count=1)
        if argv and new != old:
            raise InputError(f"the table in docs/{name} is not current; run python scripts/make_flag_table.py")
        write_text(path, new)


if __name__ == "__main__":
    run_main(main)

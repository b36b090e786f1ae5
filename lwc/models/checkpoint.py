"""Compare a checkpoint's config, weights and tokenizer before anything is loaded: only headers are read.

Imports no torch. `check_checkpoint` applies `RULES`, one row a fault, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lwc.core.errors import ModelError
from lwc.models.families import CAUSAL_LM, CLASSIFICATION, FAMILIES
from lwc.models.head_labels import described, output_names
from lwc.models.saved import INDEX, WEIGHTS, Fault, Saved, sizes
from lwc.models.tokenizer_files import tokenizer_fault, vocabulary_fault

_OTHER_FORMATS = {
    ".bin": "pickled PyTorch weights", ".pt": "a pickle", ".pth": "a pickle", ".ckpt": "a pickle",
    ".h5": "TensorFlow weights", ".msgpack": "Flax weights", ".onnx": "an exported graph", ".gguf": "GGUF weights",
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = ("F64", "F32", "F16", "BF16")
_PACKED = ("qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "SCB", "absmax", "quant_map")
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_SHOWN = 8
# Names of a size in the configs of different types; the first that is there counts.
_WIDTH = ("embedding_size", "hidden_size", "n_embd", "dim")
_POSITION_TABLES = ("position_embeddings.weight", "wpe.weight")
_POSITIONS = ("max_position_embeddings", "n_positions")


def check_checkpoint(folder: Path, task: str = CLASSIFICATION, tokenizer: bool = True) -> None:
    """Raise the first fault of the checkpoint in ``folder``, for one of the tasks that families name.

    Without ``tokenizer``, its files are not looked at: it may be somewhere else. Costs milliseconds, whatever the size
    of the weights.

    Raises:
        ModelError: it is no checkpoint for this task, or its files contradict each other.
        MissingDependency: its tokenizer needs a package.
    """
    saved = Saved(folder, task)
    for rule in RULES if tokenizer else RULES[: -len(_TOKENIZER_RULES)]:
        fault = rule(saved)
        if fault is not None:
            raise ModelError(*fault)


def _adapter(saved: Saved) -> Fault | None:
    if not saved.has("adapter_config.json"):
        return None
    config = saved.read("adapter_config.json")
    kind, base = config.get("peft_type", "PEFT"), config.get("base_model_name_or_path")
    merge = (
        f'merge it into its base: python -c "from peft import AutoPeftModelFor{_peft_class(saved)} as M; '
        f"M.from_pretrained('{saved.folder}').merge_and_unload().save_pretrained('merged')\", "
        "then copy the tokenizer's files"
    )
    if saved.has("config.json") and (saved.has(WEIGHTS) or saved.has(INDEX)):
        return Fault(
            f"{saved.folder}: a whole model and a {kind} adapter that is not merged into it (adapter_config.json)",
            f"remove the adapter's files if the model is meant without it; or {merge}",
        )
    return Fault(f"{saved.folder}: a {kind} adapter of {base}, not a whole model (adapter_config.json)", merge)


def _peft_class(saved: Saved) -> str:
    return "CausalLM" if saved.task == CAUSAL_LM else "SequenceClassification"


def _weights_file(saved: Saved) -> Fault | None:
    if saved.has(WEIGHTS) or saved.has(INDEX):
        return None
    names = sorted(path.name for path in saved.folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    if weights:
        what = f"{saved.folder}: weights in {', '.join(weights)}, none of which is named {WEIGHTS}"
        if any("-of-" in name for name in weights):
            return Fault(f"{what}, and no {INDEX}", f"copy {INDEX}, which says what is in which file, from the source")
        return Fault(what, f"rename the file to {WEIGHTS}")
    others = [name for name in names if Path(name).suffix in _OTHER_FORMATS and name != "training_args.bin"]
    if not others:
        return Fault(
            f"{saved.folder}: no weights: no {WEIGHTS} in this folder", "name the folder of a whole checkpoint"
        )
    # The weights by their usual name, rather than an optimizer's state.
    name = next((name for name in others if name.startswith("pytorch_model")), others[0])
    kind = _OTHER_FORMATS[Path(name).suffix]
    message = f"{saved.folder}: {name} is {kind}, there is no {WEIGHTS}"
    if Path(name).suffix not in _PICKLES:
        return Fault(message, f"give the model as {WEIGHTS}")
    # What transformers itself has written, it also converts.
    own = name.startswith("pytorch_model")
    hint = f"convert it once: {_conversion(saved)}" if own else "save the model with model.save_pretrained(folder)"
    return Fault(f"{message}; lwc never loads a pickle", hint)


def _conversion(saved: Saved) -> str:
    """A command that reads the pickle with torch's restricted loader and writes safetensors beside it."""
    architecture = next(iter(saved.config.get("architectures") or ["AutoModel"]))
    return (
        f'python -c "import transformers; transformers.{architecture}.from_pretrained('
        f"'{saved.folder}', use_safetensors=False).save_pretrained('{saved.folder}')\""
    )


def _config(saved: Saved) -> Fault | None:
    path = saved.folder / "config.json"
    if not path.is_file():
        return Fault(f"{saved.folder}: no config.json in this folder", "name the folder of a saved checkpoint")
    if not isinstance(saved.config.get("model_type"), str):
        return Fault(f"{path}: no model_type", "copy the config.json of the model that these weights are of")
    return None


def _quantized(saved: Saved) -> Fault | None:
    settings = saved.config.get("quantization_config") or saved.config.get("compression_config")
    if not settings:
        return None
    method = settings.get("quant_method", "no method named") if isinstance(settings, dict) else settings
    return Fault(
        f"{saved.folder / 'config.json'}: the weights are quantised ({method})", "give the full-precision weights"
    )


def _known_family(saved: Saved) -> Fault | None:
    try:
        family = saved.family
    except ModelError as error:
        return Fault(f"{saved.folder / 'config.json'}: {error.message}", error.hint)
    if saved.task not in family.tasks:
        return Fault(
            f"{saved.folder / 'config.json'}: model type {family.model_type!r} does not do {saved.task}",
            f"use another model, or a task of {', '.join(family.tasks)}",
        )
    return None


def _precision(saved: Saved) -> Fault | None:
    odd = [
        name
        for name, weight in saved.weights.items()
        if name.endswith(_PACKED) or (name.endswith((".weight", ".bias")) and weight.dtype not in _FLOATS)
    ]
    if not odd:
        return None
    weight = saved.weights[odd[0]]
    return Fault(
        f"{saved.folder / weight.file}: {len(odd)} of {len(saved.weights)} weights are quantised, "
        f"e.g. {odd[0]} ({weight.dtype}), and config.json has no quantization_config",
        "give the full-precision weights",
    )


def _wrapper(saved: Saved) -> Fault | None:
    wrapped = [name for name in saved.weights if not set(_WRAPPERS).isdisjoint(name.split("."))]
    if wrapped:
        parts = [f"{part}." for part in _WRAPPERS if any(part in name.split(".") for name in wrapped)]
        return Fault(
            f"{saved.folder}: {len(wrapped)} of {len(saved.weights)} weights carry the name of a wrapper "
            f"({', '.join(parts)}), e.g. {wrapped[0]}",
            _renaming(saved, "".join(f".replace('{part}', '')" for part in parts)),
        )
    own, found = saved.family.prefix, saved.blocks
    if not found:
        some = min(saved.weights, default="nothing")
        return Fault(
            f"{saved.folder}: no block of a {saved.family.model_type} in the weights "
            f"({saved.family.blocks}.0 and so on); they contain e.g. {some}",
            "config.json and weights must be of the same model",
        )
    if own is None or not {"", own}.isdisjoint(found):
        return None
    prefix = min(found)
    message = (
        f"{saved.folder}: the blocks are under {prefix}.{saved.family.blocks}, "
        f"a {saved.family.model_type} has them under {own}.{saved.family.blocks}"
    )
    if any(row.prefix == prefix for row in FAMILIES.values() if row.prefix != "model"):
        return Fault(message, "config.json and weights must be of the same model")
    outer = prefix.removesuffix(own) if prefix.endswith(f".{own}") else f"{prefix}."
    return Fault(message, _renaming(saved, f".removeprefix('{outer}')"))


def _renaming(saved: Saved, change: str) -> str:
    return (
        "save the model without its wrapper, or rename the weights: "
        'python -c "import glob; from safetensors.torch import load, save_file; '
        f"save_file({{k{change}: v for f in glob.glob('{saved.folder}/model*.safetensors') "
        f"for k, v in load(open(f, 'rb').read()).items()}}, '{saved.folder / WEIGHTS}', metadata={{'format': 'pt'}})\""
    )


def _depth(saved: Saved) -> Fault | None:
    family = saved.family
    found = saved.blocks.get(family.prefix or "") or saved.blocks.get("") or next(iter(saved.blocks.values()))
    name, said = _first(saved.config, (family.depth_field, "num_hidden_layers"))
    if said is None:
        return None
    spare = sorted(index for index in found if index >= said)
    absent = [index for index in range(min(said, max(found) + _SHOWN + 2)) if index not in found]
    if not spare and not absent:
        return None
    what = f"nothing would use blocks {_listed(spare)}" if spare else f"blocks {_listed(absent)} are missing"
    return Fault(
        f"{saved.folder}: config.json says {name}: {said}, the weights contain {len(found)} blocks: {what}",
        f"set {name} to {len(found)} in config.json, or give the weights of {said} blocks"
        if sorted(found) == list(range(len(found)))
        else "give whole weights",
    )


def _per_block(saved: Saved) -> Fault | None:
    name, said = _first(saved.config, (saved.family.depth_field, "num_hidden_layers"))
    for field in saved.family.per_block_fields:
        values = saved.config.get(field)
        if isinstance(values, list) and said is not None and len(values) != said:
            return Fault(
                f"{saved.folder / 'config.json'}: {field} has {len(values)} entries, {name} is {said}",
                f"{field} needs one entry a block",
            )
    return None


def _sizes(saved: Saved) -> Fault | None:
    for table, axis, names in (
        (saved.embeddings, 0, ("vocab_size",)),
        (saved.embeddings, 1, _WIDTH),
        (saved.named(_POSITION_TABLES), 0, _POSITIONS),
    ):
        name, said = _first(saved.config, names)
        if table is not None and said is not None and said != table[1].shape[axis]:
            return Fault(
                f"{saved.folder}: config.json says {name}: {said}, {table[0]} is {sizes(table[1].shape)}",
                "config.json and weights must be of the same model",
            )
    return None


def _labels(saved: Saved) -> Fault | None:
    path, head = saved.folder / "config.json", saved.head
    try:
        own = output_names(saved.config, head[1] if head else None)
    except ValueError as error:
        return Fault(f"{path}: {error}", 'write it as {"0": "<first output>", "1": "<second output>", …}')
    if head is not None and len(own) != head[1]:
        return Fault(
            f"{path}: {len(own)} labels ({described(own)}), {head[0]} has {head[1]} outputs",
            "config.json and weights must be of the same model",
        )
    return None


def _tied(saved: Saved) -> Fault | None:
    tied, table, output = saved.config.get("tie_word_embeddings"), saved.embeddings, saved.weights.get("lm_head.weight")
    if saved.task != CAUSAL_LM:
        return None
    if tied is False and output is None:
        return Fault(
            f"{saved.folder}: config.json says tie_word_embeddings: false, the weights contain no lm_head.weight",
            "set tie_word_embeddings: true if the output matrix is the embeddings; else give whole weights",
        )
    if tied and output is not None and table is not None and output.shape != table[1].shape:
        return Fault(
            f"{saved.folder}: config.json says tie_word_embeddings: true, lm_head.weight is {sizes(output.shape)}, "
            f"{table[0]} is {sizes(table[1].shape)}",
            "config.json and weights must be of the same model",
        )
    return None


def _first(config: Mapping[str, Any], names: Sequence[str]) -> tuple[str, int | None]:
    """(name, value) of the first of these config fields that is a number."""
    return next(((name, config[name]) for name in names if isinstance(config.get(name), int)), ("", None))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (" …" if len(numbers) > _SHOWN else "")


_TOKENIZER_RULES = (tokenizer_fault, vocabulary_fault)
RULES: tuple[Callable[[Saved], Fault | None], ...] = (
    _adapter, _config, _weights_file, _quantized, _known_family, _precision, _wrapper, _depth, _per_block, _sizes,
    _labels, _tied, *_TOKENIZER_RULES,
)  # fmt: skip
"""Files first, then config, weights, head and tokenizer: a rule may rely on those before it."""

